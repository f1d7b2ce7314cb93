"""Released checkpoints by name: found in the cache, or downloaded into it and checked.

Downloads use HTTPS only and stay on the host that the manifest names. They are bounded in size and resume where they
were cut off. If several processes want one file, the first downloads it and the others wait. pooch lacks all of this
but HTTPS, and compares whole digests, of which the origins publish the first digits.
"""

import difflib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import cache_folder, locked
from .manifest import Release, releases

FINAL = "model.safetensors"  # of a run's folder
_CHUNK = 2**20
_ATTEMPTS = 3
_TIMEOUT = 30.0  # seconds without a byte
_SCHEMES = ("https",)  # of addresses and redirects


def is_name(source: str | Path) -> bool:
    """Whether this names a release, such as `torchvision:maskrcnn_resnet50_fpn`, rather than a file or a run."""
    return re.match(r"(torchvision|detectron2?):[^/\\]+$", str(source)) is not None and not is_model(source)


def is_model(source: str | Path) -> bool:
    """Whether this is a file, or the folder of a run, whose name wins over that of a release or a shipped model."""
    return Path(source).is_file() or Path(source, FINAL).is_file()


def find(name: str) -> Release:
    """The release of that name. Raises `CheckpointError` with the nearest names."""
    known = releases()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise CheckpointError(f"there is no release {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def locate(source: str | Path, *, offline: bool | None = None) -> Path:
    """The file that `source` means: itself, the model in a run's folder, or a release's download."""
    if is_name(source):
        return fetch(find(str(source)), offline=offline)
    path = Path(source)
    if not path.is_dir():
        return path
    if not (path / FINAL).is_file():
        raise CheckpointError(f"{path} is a folder without a {FINAL}")
    return path / FINAL


def fetch(release: Release, *, offline: bool | None = None) -> Path:
    """The file of a release, downloaded if it is not in the cache.

    `offline` forbids the download; None means as `MASKRCNN_OFFLINE` says. Raises `CheckpointError`.
    """
    path = place_of(release)
    if path.is_file():
        return path
    if os.environ.get("MASKRCNN_OFFLINE") if offline is None else offline:
        raise CheckpointError(
            f"{release.name} is not in the cache and downloads are switched off: put {release.address} at {path}"
        )
    with locked(path, path.with_name(f"{path.name}.lock"), "download", CheckpointError):
        if not path.is_file():  # no other process downloaded it while this one waited
            print(f"{release.name}: {release.address} to {path}, licence: {release.licence}")
            digest = release.digest
            if digest == "md5sum":
                digest = _published_digest(f"{release.address}.md5sum", path.with_suffix(".md5sum"))
            download(release.address, path, digest=digest, limit=release.size)
    return path


def place_of(release: Release) -> Path:
    """Where a release is kept, in the cache folder. It need not be there yet."""
    return cache_folder() / release.file


def download(address: str, path: Path, *, digest: str, limit: int) -> None:
    """Downloads `address` to `path`. Afterwards the whole, checked file is there, or none.

    Args:
        digest: "sha256:" or "md5:" and the first digits of the sum; empty to check nothing.
        limit: bytes that the file may have at most.

    Raises `CheckpointError`. What was received stays beside `path` as `*.part`, and the next call resumes there.
    """
    _check_scheme(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    by_hand = f"try again, or put it at {path} by hand"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _resume(address, part, limit)
            break
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == _ATTEMPTS:
                raise CheckpointError(f"{address} could not be downloaded ({_reason(error)}); {by_hand}") from error
    if not _agrees(part, digest):
        part.unlink()
        raise CheckpointError(f"{address} is not the file that was released: its {digest} does not match; {by_hand}")
    os.replace(part, path)


def _resume(address: str, part: Path, limit: int) -> None:
    """Appends to `part` what is missing. Raises `OSError` if the connection ends too early."""
    got = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={got}-"} if got else {})
    try:
        response = urllib.request.build_opener(_SameHost(address)).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not got:
            raise
        part.unlink()  # it is longer than the file, so it is of another one
        return _resume(address, part, limit)
    with response:
        appends = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {got}-")
        got = got if appends else 0
        length = response.headers.get("Content-Length", "")
        size = got + int(length) if length.isdigit() else None
        if size is not None and size > limit:
            raise CheckpointError(f"{address} has {size} bytes; at most {limit} were expected")
        with open(part, "ab" if appends else "wb") as file:
            while chunk := response.read(_CHUNK):
                got += len(chunk)
                if got > limit:
                    file.truncate(0)
                    raise CheckpointError(f"{address} is longer than it should be: at most {limit} bytes were expected")
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())  # the final name is believed for ever, so the bytes must be on the disk first
    if size is not None and got < size:
        raise ConnectionError(f"it ended after {got} of {size} bytes")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the same host only."""

    def __init__(self, address: str) -> None:
        self._host = urllib.parse.urlsplit(address).netloc

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl)
        if urllib.parse.urlsplit(newurl).netloc != self._host:
            raise CheckpointError(f"{req.full_url} leads to another host, {newurl}; it was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(address: str) -> None:
    if urllib.parse.urlsplit(address).scheme not in _SCHEMES:
        raise CheckpointError(f"{address} is not {' or '.join(_SCHEMES)}; nothing was downloaded")


def _published_digest(address: str, path: Path) -> str:
    """The sum in a small file beside the large one."""
    try:
        download(address, path, digest="", limit=1024)
        found = re.match(r"[0-9a-f]{32}", path.read_text("latin1"))
        path.unlink()
    except CheckpointError:
        found = None
    if found is None:
        warnings.warn(f"{address} could not be read: the download cannot be checked", stacklevel=3)
    return f"md5:{found[0]}" if found else ""


def _agrees(path: Path, digest: str) -> bool:
    kind, _, start = digest.partition(":")
    if not start:
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest().startswith(start)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
