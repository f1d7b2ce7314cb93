"""XML that may come from strangers: no entity expands, no other file is opened, and no size is believed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from ...errors import DataError
from ...files import open_regular
from ..validate import integer
from .files import peek

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that no XML can hold


def has_root(path: Path, tag: str, child: str = "") -> bool:
    """Whether the file is XML with this root, and near its beginning has an element whose tag fits the pattern
    `child`.
    """
    text = re.sub(r"<!--.*?-->", "", peek(path).decode("utf-8", "replace"), flags=re.DOTALL)
    first = re.search(r"<([^\s<>/?!]+)[\s/>]", text)
    return first is not None and first[1] == tag and (not child or re.search(rf"<(?:{child})[\s/>]", text) is not None)


def load_xml(path: Path, most_bytes: int) -> Element:
    """The root of a file, parsed as a whole. Raises `DataError`, naming it, if it cannot be read or is too large."""
    from defusedxml import ElementTree

    with reading(path, most_bytes):
        root = ElementTree.parse(path, forbid_dtd=True).getroot()
        assert root is not None  # or it would not have been valid
        return root


def elements(path: Path, tags: tuple[str, ...], most_bytes: int) -> Iterator[Element]:
    """The complete children of the root with these tags, one at a time. Raises `DataError` as `load_xml`."""
    from defusedxml import ElementTree

    with reading(path, most_bytes), open_regular(path) as file:
        depth, root = 0, None
        for event, element in ElementTree.iterparse(file, ("start", "end"), forbid_dtd=True):
            if event == "start":
                root, depth = root if root is not None else element, depth + 1
                continue
            depth -= 1
            if depth == 1 and root is not None:
                if element.tag in tags:
                    yield element
                root.clear()


@contextmanager
def reading(path: Path, most_bytes: int) -> Iterator[None]:
    """Turns what can go wrong with a file into a `DataError` that names it."""
    from defusedxml import DefusedXmlException

    try:
        if path.stat().st_size > most_bytes:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes; at most {most_bytes:,} are read")
        yield
    except DefusedXmlException as error:
        raise DataError(f"{path}: has a document type or entities, which are not read; remove its DOCTYPE") from error
    except ParseError as error:
        raise DataError(f"{path}: not valid XML, perhaps truncated ({error})") from error
    except (LookupError, ValueError) as error:  # of the encoding
        raise DataError(f"{path}: its encoding cannot be read ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def number(value: Any) -> float | None:
    """The number in a text or attribute, or None. Not a number, and infinity, are numbers: the builder drops them."""
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def side(text: str | None) -> int | None:
    """A side of an image in pixels; None if the text is none."""
    value = integer(text)
    return value if value is not None and 0 < value < 1e9 else None


def printable(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)
