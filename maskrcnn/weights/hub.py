"""Names of released checkpoints to files: found in the cache, or downloaded into it, checked, and only then believed.

HTTPS only, to the host that the manifest names; no more bytes than it allows; what was cut off goes on where it
stopped. Of several processes that want one file the first downloads it and the others wait. `MASKRCNN_CACHE` moves the
cache, `MASKRCNN_OFFLINE` forbids downloads.
"""

import difflib
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import CheckpointError
from .manifest import Release, releases

_CHUNK = 2**20
_ATTEMPTS = 3
_TIMEOUT = 30.0  # seconds without a byte
_HTTPS = ("https",)

Say = Callable[[str], None]


def is_name(source: str | Path) -> bool:
    """Whether this names a release, such as `torchvision:maskrcnn_resnet50_fpn`, rather than a file."""
    return re.match(r"(torchvision|detectron2?):[^/\\]+$", str(source)) is not None and not Path(source).exists()


def find(name: str) -> Release:
    """The release of that name. Raises `CheckpointError` with the nearest names."""
    known = releases()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise CheckpointError(f"there is no release {name!r}" + (f"; there is {', '.join(near)}" if near else ""))


def fetch(release: Release, *, offline: bool | None = None, say: Say = print) -> Path:
    """The file of a release, downloaded where it is not in the cache. Raises `CheckpointError`."""
    path = place_of(release)
    if path.is_file():
        return path
    offline = bool(os.environ.get("MASKRCNN_OFFLINE")) if offline is None else offline
    if offline:
        raise CheckpointError(f"{release.name} is not in the cache, and offline: put {release.address} at {path}")
    with _claim(path, say):
        if path.is_file():  # another process has brought it
            return path
        say(f"{release.name}: {release.address} to {path}, licence: {release.licence}")
        digest = release.digest
        if digest == "md5sum":
            digest = _published_digest(f"{release.address}.md5sum", path.with_suffix(".md5sum"))
        download(release.address, path, digest=digest, limit=release.size)
    return path


def place_of(release: Release) -> Path:
    """Where its file is, or will be."""
    return cache_folder() / release.file


def cache_folder() -> Path:
    """Where downloads are kept."""
    if own := os.environ.get("MASKRCNN_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "maskrcnn"


def download(address: str, path: Path, *, digest: str, limit: int, schemes: Collection[str] = _HTTPS) -> None:
    """Downloads `address` to `path`, which is there afterwards whole and checked, or not at all.

    Args:
        digest: "sha256:" or "md5:" and the first digits of the sum; empty where nothing is known of it.
        limit: bytes the file may have at most.
        schemes: of address and redirects.

    Raises `CheckpointError`; what has come is kept beside `path` as `*.part`, and the next try goes on from there.
    """
    _check_scheme(address, schemes)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    by_hand = f"try again, or put it at {path} by hand"
    for attempt in range(_ATTEMPTS):
        try:
            _continue(address, part, limit, schemes)
            break
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            lasting = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if lasting or attempt == _ATTEMPTS - 1:
                raise CheckpointError(f"{address} could not be downloaded ({_reason(error)}); {by_hand}") from error
    if digest and not _agrees(part, digest):
        part.unlink()
        raise CheckpointError(f"{address} is not the file that was released: its {digest} does not agree; {by_hand}")
    os.replace(part, path)


@contextmanager
def _claim(path: Path, say: Say) -> Iterator[None]:
    """Waits until nobody else works on `path`, in this process or another; one that dies gives its claim back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    while True:
        with open(lock, "ab") as file:
            _wait_for(file, f"waiting for another process, which downloads {path.name}", say)
            if _is_at(file, lock):  # else the one before has removed it, and others wait for the next
                try:
                    yield
                finally:
                    with suppress(PermissionError):  # Windows removes nothing that is open
                        lock.unlink()
                return


def _wait_for(file: IO[bytes], words: str, say: Say) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
            except OSError:  # after ten seconds
                say(words)
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(words)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        warnings.warn(f"{file.name} cannot be locked ({error}): download in one process at a time", stacklevel=5)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _continue(address: str, part: Path, limit: int, schemes: Collection[str]) -> None:
    """Adds to `part` what is missing. Raises `OSError` where the connection ends too early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener(_SameHost(address, schemes))
    try:
        response = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        part.unlink()  # longer than the file: it was another one
        return _continue(address, part, limit, schemes)
    with response:
        going_on = response.status == 206 and _starts_at(response, have)
        start = have if going_on else 0
        length = response.headers.get("Content-Length")
        whole = start + int(length) if length and length.isdigit() else None
        if whole is not None and whole > limit:
            raise CheckpointError(f"{address} has {whole} bytes; at most {limit} were expected")
        with open(part, "ab" if going_on else "wb") as file:
            got = start + _copy(response, file, limit - start, address)
            file.flush()
            os.fsync(file.fileno())  # a whole name for half a file would be believed for ever
    if whole is not None and got < whole:
        raise ConnectionError(f"it ended after {got} of {whole} bytes")


def _copy(response: Any, file: IO[bytes], room: int, address: str) -> int:
    """Bytes written. Raises `CheckpointError` where they do not end."""
    written = 0
    while chunk := response.read(_CHUNK):
        written += len(chunk)
        if written > room:
            file.truncate(0)
            raise CheckpointError(f"{address} does not end where it should: more bytes came than were expected")
        file.write(chunk)
    return written


def _starts_at(response: Any, offset: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the host that was asked, and to no other."""

    def __init__(self, address: str, schemes: Collection[str]) -> None:
        self._host, self._schemes = urllib.parse.urlsplit(address).netloc, schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, self._schemes)
        if urllib.parse.urlsplit(newurl).netloc != self._host:
            raise CheckpointError(f"{req.full_url} leads to another host, {newurl}; it was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(address: str, schemes: Collection[str]) -> None:
    if urllib.parse.urlsplit(address).scheme not in schemes:
        raise CheckpointError(f"{address} is not of {' or '.join(schemes)}; nothing was downloaded")


def _published_digest(address: str, path: Path) -> str:
    """The sum that stands in a small file beside the large one."""
    try:
        download(address, path, digest="", limit=1024)
        found = re.match(rb"[0-9a-f]{32}", path.read_bytes())
        path.unlink()
    except CheckpointError:
        found = None
    if found is None:
        warnings.warn(f"{address} could not be read: the download cannot be checked", stacklevel=3)
        return ""
    return f"md5:{found[0].decode()}"


def _agrees(path: Path, digest: str) -> bool:
    kind, _, start = digest.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest().startswith(start)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
