"""The text of a COCO json, split into its records; and what a file is that is something else.

msgspec finds where each record begins and ends, so that no more than one exists as Python objects. json reads what
msgspec's stricter grammar refuses: NaN and infinity, halves of surrogate pairs, and encodings other than UTF-8.
"""

import codecs
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...errors import DataError
from ...files import open_regular
from ...images.kinds import PREFIX, kind_of, start_of
from .dialects import not_coco, what_text
from .files import read_bytes

_LISTS = ("images", "annotations", "categories")
_BLOCK = 1 << 24  # bytes whose encoding is checked at a time
_GZIP = b"\x1f\x8b"
_MOST_INFLATED = 1 << 32  # bytes of a file that was compressed
_MOST_RATIO = 200  # of its size to that of the compressed file; json is rarely compressed to a hundredth
_BEGIN = 1 << 12  # bytes of a file that tell what text it is
_LOOKED_AT = 1 << 20  # bytes at either end of a file that tell what it is


class _File(msgspec.Struct):
    images: list[msgspec.Raw] | dict[str, msgspec.Raw]
    annotations: list[msgspec.Raw] | dict[str, msgspec.Raw]
    categories: list[msgspec.Raw] | dict[str, msgspec.Raw]


class Lists(NamedTuple):
    """The records of a file, each as `Raw` or parsed."""

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


def content_of(path: Path) -> bytes:
    """A file's bytes, decompressed if it is gzip. Raises `DataError`, naming it."""
    content = read_bytes(path, None)
    return _inflated(content, path) if content[:2] == _GZIP else content


def split(content: bytes) -> Lists | None:
    """The lists of images, annotations and categories, each record still `Raw`; None if msgspec refuses the file."""
    try:
        _check_utf8(content)  # msgspec does not check the strings that it skips
        file = msgspec.json.decode(content, type=_File)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return Lists(_values(file.images), _values(file.annotations), _classes(file.categories))


def load(content: bytes, path: Path) -> Lists:
    """The same lists, all of them parsed by json. Raises `DataError` if the file is not COCO."""
    loaded = parse(content, path, json.detect_encoding(content))
    kinds = (list, dict)
    if not isinstance(loaded, dict) or not all(isinstance(loaded.get(key), kinds) for key in _LISTS):
        raise DataError(f"{path}: {not_coco(loaded)}")
    return Lists(_values(loaded["images"]), _values(loaded["annotations"]), _classes(loaded["categories"]))


def parse(content: Any, path: Path, encoding: str = "utf-8") -> Any:
    """What json makes of a file, or of one record of it. Raises `DataError`."""
    try:
        return json.loads(str(content, encoding).removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        if known := _other_file(content):
            raise DataError(f"{path}: is {known}; expected annotations, such as a COCO json") from error
        byte = bytes(content)[error.start]
        raise DataError(
            f"{path}: is not {encoding.upper()} (byte 0x{byte:02x} at {error.start}), perhaps Latin-1 or another code "
            "page of Windows: save it as UTF-8, for example with iconv -f CP1252 -t UTF-8"
        ) from error
    except ValueError as error:
        if known := _other_file(content):
            raise DataError(f"{path}: is {known}; expected annotations, such as a COCO json") from error
        what = what_text(str(memoryview(content)[:_BEGIN], encoding, "replace"))
        raise DataError(f"{path}: {what or f'not valid json, perhaps truncated ({error}); export it again'}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not COCO; its json is nested too deeply") from error


def _other_file(content: Any) -> str | None:
    """What a file is that is no json, by its first bytes; None if they do not tell."""
    prefix = bytes(memoryview(content)[:PREFIX])
    kind = kind_of(prefix)
    return f"an image ({kind})" if kind else start_of(prefix)


def looks_like_coco(path: Path) -> bool:
    """Whether a json has at least two of COCO's lists, as far as its beginning and its end show."""
    try:
        with open_regular(path) as file:
            head = file.read(_LOOKED_AT)
            if head[:2] == _GZIP:
                head = zlib.decompressobj(wbits=31).decompress(head, _LOOKED_AT)
                tail = b""
            else:
                file.seek(max(len(head), path.stat().st_size - _LOOKED_AT))
                tail = file.read(_LOOKED_AT)
    except (OSError, zlib.error):
        return False
    text = (head + tail).replace(b"\0", b"")  # of UTF-16
    return text.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1] == b"{" and sum(_has_list(text, key) for key in _LISTS) > 1


def _has_list(text: bytes, key: str) -> bool:
    quoted = b'"%b"' % key.encode()
    return any(part.lstrip()[:1] == b":" and part.lstrip()[1:].lstrip()[:1] in (b"[", b"{")
               for part in text.split(quoted)[1:])  # fmt: skip


def _values(entries: list[Any] | dict[str, Any]) -> list[Any]:
    return list(entries.values()) if isinstance(entries, dict) else entries


def _classes(entries: list[Any] | dict[str, Any]) -> list[Any]:
    """The categories; those of an object {id: name} as records."""
    if isinstance(entries, list):
        return entries
    read = {id: msgspec.json.decode(e) if isinstance(e, msgspec.Raw) else e for id, e in entries.items()}
    return [{"id": id, "name": entry} if isinstance(entry, str) else entry for id, entry in read.items()]


def _inflated(content: bytes, path: Path) -> bytes:
    most = min(_MOST_INFLATED, _MOST_RATIO * len(content) + _BLOCK)
    try:
        inflater = zlib.decompressobj(wbits=31)
        text = inflater.decompress(content, most)
        if inflater.unconsumed_tail:
            raise DataError(
                f"{path}: gzip of more than {most:,} bytes; decompress it yourself if it is what you expect"
            )
        if not inflater.eof:
            raise DataError(f"{path}: gzip that is truncated")
    except zlib.error as error:
        raise DataError(f"{path}: gzip that cannot be decompressed ({error})") from error
    return text


def _check_utf8(content: bytes) -> None:
    """Raises `UnicodeDecodeError`. Piece by piece, because the whole text could take four times the file's memory."""
    if not content.isascii():
        decoder = codecs.getincrementaldecoder("utf-8")()
        for first in range(0, len(content), _BLOCK):
            decoder.decode(content[first : first + _BLOCK], final=first + _BLOCK >= len(content))
