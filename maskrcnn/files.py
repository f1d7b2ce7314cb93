"""Atomic writes, locks between processes, the fingerprint of a file, and the cache folder."""

import errno
import hashlib
import json
import os
import socket
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

_PATIENCE = 3600.0  # seconds that another process may hold a lock


@contextmanager
def locked(target: Path, lock_file: Path, work: str, error: type[Exception]) -> Iterator[None]:
    """Holds a lock against other threads and processes that do the same `work` (a verb) to make `target`.

    The lock of a process that dies is free. Raises `error` after an hour; warns if the disk has no locks.
    """
    from filelock import FileLock, Timeout

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process, which {work}s {target.name}")
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise error(
                f"{target.name}: another process has held {lock_file} for an hour; end it, and try again"
            ) from None
    except (OSError, NotImplementedError) as reason:
        warnings.warn(f"{lock_file.parent} allows no locks ({reason}): {work} in one process at a time", stacklevel=4)
    try:
        yield
    finally:
        lock.release()
        if target.exists():  # so nobody needs the lock any more
            with suppress(OSError):  # Windows does not remove a file that another process has open
                lock_file.unlink(missing_ok=True)


@contextmanager
def held(lock_file: Path, error: type[Exception]) -> Iterator[None]:
    """Keeps the lock file's folder to this process, and names the process in the file; the file goes with the lock.

    Raises `error` at once if another process has it. The lock of a process that died is free; where a disk has no
    locks, a process of this host is looked for by its number, and one of another host is taken to live.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        owner = lock_file.read_text(encoding="utf-8", errors="replace").strip()
        if _is_taken(descriptor, owner):
            raise error(
                f"{lock_file.parent} is in use by {owner or 'another process'}: end it, or choose another "
                f"folder (if it has ended, remove {lock_file})"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            with suppress(OSError):  # Windows does not remove an open file: the next start finds no such process
                lock_file.unlink()
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int, owner: str) -> bool:
    """Whether another process has this lock file, with the name of its `owner` in it; if none has, it is ours now."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond the name, which stays readable
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
            return False
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_nlink == 0  # it was removed while we opened it
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a disk without locks
        number, _, host = owner.removeprefix("process ").partition(" on ")
        if host != socket.gethostname() or not number.isdecimal():
            return bool(owner)
        return int(number) != os.getpid() and _lives(int(number))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Removes what writes of the files `names` in a folder left when they were killed. Nobody may be writing them."""
    wanted = set(names)
    for part in folder.glob(".*.part"):
        if part.name.removesuffix(".part").rpartition(".")[0][1:] in wanted:
            part.unlink(missing_ok=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`. If the block ends without an error, it is flushed and replaces `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # of an ordinary file; safetensors would make it private
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if os.name == "posix":  # other systems cannot open a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a file to read its bytes. Raises OSError, also for a pipe or a device: they may never answer or end."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISREG(kind):
            return descriptor
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(code, "a folder" if stat.S_ISDIR(kind) else "a pipe or a device, not a file", name)

    return open(path, "rb", opener=opener)


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """`MASKRCNN_CACHE`, else `maskrcnn` in the user's cache. It need not be there yet."""
    own, shared = os.environ.get("MASKRCNN_CACHE"), os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared, "maskrcnn")
