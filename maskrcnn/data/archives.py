"""Unpacks a data set that was given as a zip, as annotation tools export it, into a folder, once.

The archive may come from a stranger. All names and sizes are checked before anything is written: no member can leave
the folder, replace another, or be anything but a file, and the whole must be plausible for the archive and fit on the
disk. Archives within the archive stay closed.
"""

import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from ..errors import DataError
from ..files import cache_folder, locked, open_regular

MOST_MEMBERS = 2_000_000
MOST_GROWTH = 100  # times the archive's size, but for what is small anyhow
SMALL = 1 << 30  # bytes
_SPARE = 1 << 28  # bytes that stay free on the disk
_LONGEST = 1000  # characters of a name
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, whatever the suffix
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError, ValueError)
_OTHERS = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR"}


def unpacked(path: Path) -> Path:
    """The folder with the content of a zip; any other path as it is.

    The folder is beside the zip, or in the cache folder if that place cannot be written. Its name has the zip's
    fingerprint, so a changed zip gets a new one. It appears as a whole, also if several processes ask for it.
    Raises `DataError`, naming the file, if it cannot be unpacked or should not be.
    """
    if not path.is_file() or not _is_zip(path):
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked(archive, path)
            name = f"{path.stem}-{_fingerprint(members)}"
            for parent in (path.resolve().parent, cache_folder() / "data"):
                if (parent / name).is_dir():
                    return parent / name
            return _unpack(archive, members, path, name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (*_UNREADABLE, struct.error) as error:  # of the directory; also names that are not UTF-8
        raise DataError(f"{path}: a damaged zip, perhaps truncated ({error}); fetch it again") from error


def _is_zip(path: Path) -> bool:
    """Whether it is a zip, whole or not. Raises `DataError` for archives of other kinds."""
    try:
        with open_regular(path) as file:
            begin = file.read(512)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    kind = next((name for magic, name in _OTHERS.items() if begin.startswith(magic)), None)
    if begin[257:262] == b"ustar" or path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        kind = "tar"
    if kind is not None:
        raise DataError(f"{path}: a {kind} archive; only zip is opened, so unpack it and give the folder")
    return begin[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")


def _checked(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files to unpack by their names. Raises `DataError` if one is unsafe, or if all are too much."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise DataError(f"{path}: {len(infos):,} members; at most {MOST_MEMBERS:,} are unpacked")
    members: dict[str, zipfile.ZipInfo] = {}
    taken: set[str] = set()  # also a file's folders: on some systems, names that differ in their case are the same
    folders: set[str] = set()
    for info in infos:
        name = _name(info)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if "__MACOSX" in parts or (parts and (parts[-1].startswith("._") or parts[-1] == ".DS_Store")):
            continue
        if wrong := _wrong(name, parts, info):
            raise DataError(f"{path}: its member {name!r:.200} {wrong}; nothing was unpacked")
        if info.is_dir() or name.endswith("/"):
            continue
        if info.flag_bits & 1:
            raise DataError(f"{path}: is encrypted; unpack it with its password and give the folder")
        key = "/".join(parts).casefold()
        folders.update(key[: at.start()] for at in re.finditer("/", key))
        if key in taken:
            raise DataError(f"{path}: its member {name!r:.200} is there twice; nothing was unpacked")
        taken.add(key)
        members["/".join(parts)] = info
    if both := taken & folders:
        raise DataError(f"{path}: its member {min(both)!r:.200} is both a file and a folder; nothing was unpacked")
    size, total = path.stat().st_size, sum(info.file_size for info in members.values())
    if total > max(SMALL, MOST_GROWTH * size):
        raise DataError(
            f"{path}: {size:,} bytes that would become {total:,}, as those of a zip bomb; "
            "if you trust it, unpack it and give the folder"
        )
    return members


def _name(info: zipfile.ZipInfo) -> str:
    """The member's name with slashes. Without the flag for UTF-8 it was read as cp437, but macOS writes UTF-8."""
    name = info.filename
    if not info.flag_bits & 0x800 and not name.isascii():
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return name.replace("\\", "/")


def _wrong(name: str, parts: list[str], info: zipfile.ZipInfo) -> str | None:
    """What is unsafe about a member, or None."""
    if name.startswith("/") or PureWindowsPath(name).drive or any(part.rstrip(" .") == "" for part in parts):
        return "would leave the folder"  # Windows ignores dots and spaces at the end of a name
    if len(name) > _LONGEST:
        return "has too long a name"
    if not parts or re.search(r"[\x00-\x1f\x7f]", name) or (":" in name and os.name == "nt"):
        return "has a name that names no file"
    if any(_DEVICES.fullmatch(part) for part in parts):
        return "has the name of a device"
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0  # only Unix stores the kind
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link, not a file" if kind == stat.S_IFLNK else "is no ordinary file"
    return None


def _fingerprint(members: dict[str, zipfile.ZipInfo]) -> str:
    """Of the names, sizes and checksums, so that gigabytes need not be read."""
    digest = hashlib.sha256()
    for name, info in sorted(members.items()):
        digest.update(f"{name}\0{info.file_size}\0{info.CRC}\0".encode())
    return digest.hexdigest()[:12]


def _unpack(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path, name: str) -> Path:
    """Unpacks into a temporary folder, which gets its `name` when it is complete."""
    parent = _writable_parent(path)
    total, free = sum(info.file_size for info in members.values()), shutil.disk_usage(parent).free
    if total + _SPARE > free:
        raise DataError(f"{path}: needs {total:,} bytes in {parent}, but {free:,} are free there")
    target, temporary = parent / name, parent / f".{name}.{os.getpid()}.part"
    with locked(target, target.with_name(f".{target.name}.lock"), "unpack", DataError):
        if target.is_dir():  # another process unpacked it while this one waited
            return target
        print(f"{path} is unpacked into {target}", flush=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            temporary.mkdir()
            for member, info in members.items():
                _extract(archive, info, temporary / member, path)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, path: Path) -> None:
    """Writes one member: no more than its stated size is ever read, and its checksum must be right."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except RuntimeError as error:  # of an encrypted member
        raise DataError(f"{path}: its member {info.filename!r:.200} is encrypted") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: its member {info.filename!r:.200} cannot be unpacked ({reason})") from error


def _writable_parent(path: Path) -> Path:
    """The folder of the zip, or that for data in the cache."""
    beside = path.resolve().parent
    if os.access(beside, os.W_OK | os.X_OK):
        return beside
    cache = cache_folder() / "data"
    cache.mkdir(parents=True, exist_ok=True)
    return cache
