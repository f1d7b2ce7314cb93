"""Images that annotation files contain, in base64: written into the cache, so that they can be read like any other."""

import base64
import binascii
import hashlib
from pathlib import Path

from ...errors import DataError
from ...files import cache_folder, replacing

_SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"GIF8": ".gif",
}


def unpack(data: str, name: str, folder: Path, source: Path) -> tuple[Path, str]:
    """Writes an image into the cache, once. Gives its folder, which is the same for all images of data in `folder`, and
    its name there, which is `name` with the suffix of what it is.

    Raises `DataError`, naming `source`, if it is no image.
    """
    try:
        content = base64.b64decode(data.partition("base64,")[2] or data)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{source}: its embedded image is not base64 ({error})") from error
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if content.startswith(magic)), None)
    if suffix is None:
        raise DataError(f"{source}: its embedded image is neither a JPEG nor a PNG, BMP, TIFF or GIF")
    root = (
        cache_folder()
        / "embedded"
        / hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    )
    path = root / f"{name}{suffix}"
    try:
        if not path.is_file() or path.read_bytes() != content:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise DataError(
            f"{source}: its embedded image cannot be written to {path} ({error.strerror or error}); "
            "the environment variable MASKRCNN_CACHE names another folder"
        ) from error
    return root, f"{name}{suffix}"
