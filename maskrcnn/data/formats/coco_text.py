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
from .files import read_bytes
from .strangers import what_is

_LISTS = ("images", "annotations", "categories")
_BLOCK = 1 << 24  # bytes whose encoding is checked at a time
_GZIP = b"\x1f\x8b"
_MOST_INFLATED = 1 << 32  # bytes of a file that was compressed
_MOST_RATIO = 200  # of its size to that of the compressed file; json is rarely compressed to a hundredth
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
    return Lists(*map(_values, (file.images, file.annotations, file.categories)))


def load(content: bytes, path: Path) -> Lists:
    """The same lists, all of them parsed by json. Raises `DataError` if the file is not COCO."""
    loaded = parse(content, path, json.detect_encoding(content))
    kinds = (list, dict)
    if not isinstance(loaded, dict) or not all(isinstance(loaded.get(key), kinds) for key in _LISTS):
        raise DataError(f"{path}: {_what_else(loaded)}")
    return Lists(*(_values(loaded[key]) for key in _LISTS))


def parse(content: Any, path: Path, encoding: str = "utf-8") -> Any:
    """What json makes of a file, or of one record of it. Raises `DataError`."""
    try:
        return json.loads(str(content, encoding).removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        byte = bytes(content)[error.start]
        raise DataError(
            f"{path}: is not {encoding.upper()} (byte 0x{byte:02x} at {error.start}), perhaps Latin-1 or another code "
            "page of Windows: save it as UTF-8, for example with iconv -f CP1252 -t UTF-8"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid json, perhaps truncated ({error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: not COCO; its json is nested too deeply") from error


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


def _what_else(loaded: Any) -> str:
    """What a file is that is not COCO, and what to do."""
    if known := what_is(loaded):
        return f"is {known}"
    if isinstance(loaded, list):
        first = loaded[0] if loaded and isinstance(loaded[0], dict) else {}
        if {"image_id", "category_id"} <= first.keys():
            return (
                "a list of results, which has neither images nor categories; expected the annotations that the results "
                "belong to, a COCO json such as instances_val2017.json"
            )
        if "segments_info" in first:
            return "a list of panoptic segments; expected a COCO json of instances, such as instances_val2017.json"
        return f"not COCO; expected an object with the lists {', '.join(_LISTS)}, but it is a list"
    if not isinstance(loaded, dict):
        return f"not COCO; expected an object with the lists {', '.join(_LISTS)}"
    wrong = [key for key in _LISTS if not isinstance(loaded.get(key), list | dict)]
    if "images" in loaded and "annotations" in loaded and wrong == ["categories"]:
        return (
            "there is no list 'categories', so the objects have no class; add it, with an id and a name for each class"
        )
    return (
        f"not COCO; expected an object with the lists {', '.join(_LISTS)}, "
        f"but there is no list {', '.join(map(repr, wrong))}"
    )
