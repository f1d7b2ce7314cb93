"""The files of VGG Image Annotator, brought into one form: images with regions, as VIA 2 describes them."""

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...errors import DataError
from ..validate import show
from .files import load_json, peek, read_bytes

_COLUMNS = {"filename", "file_attributes", "region_shape_attributes", "region_attributes"}
# VIA 3 numbers its shapes; what follows the number in `xy`.
_SHAPES_3 = {
    1: ("point", "cx", "cy"),
    2: ("rect", "x", "y", "width", "height"),
    3: ("circle", "cx", "cy", "r"),
    4: ("ellipse", "cx", "cy", "rx", "ry"),
}
_LISTS_3 = {5: "line", 6: "polyline", 7: "polygon", 8: "extreme_rect", 9: "extreme_circle"}
_CSV_OF_VIA3 = "# exported using vgg image annotator"
_IMAGE_3 = 2  # VIA 3's type of a file that is an image


class Region(NamedTuple):
    """What VIA says of a region: its shape as VIA 2 writes it, and its attributes."""

    shape: dict[str, Any]
    attributes: dict[str, Any]


class Entry(NamedTuple):
    """What VIA says of an image."""

    name: Any
    regions: list[Region]
    attributes: dict[str, Any]
    embedded: str = ""  # the image, in base64


class Project(NamedTuple):
    """What a file of VIA says."""

    entries: list[Entry]
    choices: dict[str, dict[str, Any]]  # of attributes of regions that have a list of them, {id: description}
    faults: list[tuple[str, str]]  # entries that are no image with regions, reason and detail


def kind_of(path: Path) -> Literal["project", "json", "csv", None]:
    """What a file's beginning shows: a project of VIA 2 or 3, annotations in json or csv, or nothing of VIA."""
    head = peek(path)
    if not head.startswith(b"{"):
        first = head.partition(b"\n")[0].decode("utf-8", "replace").lower()
        of_via2 = first.lstrip("#").startswith("filename") and "region_shape_attributes" in first
        return "csv" if of_via2 or first.startswith(_CSV_OF_VIA3) else None
    if b'"_via_' in head or (b'"project"' in head and b'"pid"' in head and b"VGG" in head):
        return "project"
    return "json" if b'"filename"' in head and b'"regions"' in head else None


def load(path: Path) -> Project:
    """What a file of VIA says. Raises `DataError`, naming it, if it is none."""
    if kind_of(path) == "csv":
        return _from_csv(path)
    content = load_json(path)
    if isinstance(content, dict) and {"project", "file", "metadata"} <= content.keys():
        return _from_via3(content, path)
    table = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise DataError(
            f"{path}: not VIA's; expected a project, or an object with 'filename' and 'regions' of each image"
        )
    attributes = content.get("_via_attributes")
    defined = attributes.get("region") if isinstance(attributes, dict) else None
    entries, faults = [], []
    for key, value in table.items():
        regions = value.get("regions", []) if isinstance(value, dict) else None
        if not isinstance(value, dict) or "filename" not in value or not isinstance(regions, list | dict):
            faults.append(("entry without a file name and regions", show(key)))
            continue
        listed = regions if isinstance(regions, list) else list(regions.values())  # VIA 1 numbers them
        found = [_region(region) for region in listed]
        embedded = value.get("base64_img_data")
        entries.append(Entry(value["filename"], found, _dict(value.get("file_attributes")), _text(embedded)))
    return Project(entries, _choices(defined), faults)


def _region(value: Any) -> Region:
    value = _dict(value)
    return Region(_dict(value.get("shape_attributes")), _dict(value.get("region_attributes")))


def _from_csv(path: Path) -> Project:
    """VIA's csv has a row for each region; an image without regions has one with an empty shape."""
    entries: dict[str, Entry] = {}
    faults: list[tuple[str, str]] = []
    for line, row in _csv_rows(path):
        values = [
            _json_object(row.get(name)) for name in ("file_attributes", "region_shape_attributes", "region_attributes")
        ]
        if not row.get("filename") or any(value is None for value in values):
            faults.append(("row that cannot be read", f"line {line}: {show(row.get('filename'))}"))
            continue
        of_file, shape, attributes = (value or {} for value in values)
        entry = entries.setdefault(row["filename"], Entry(row["filename"], [], of_file))
        if shape:
            entry.regions.append(Region(shape, attributes))
    return Project(list(entries.values()), {}, faults)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row with the number of its line. Raises `DataError` if the file is too large or no table of VIA."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: its text is not UTF-8 ({error})") from error
    header = text.partition("\n")[0]
    if header.lower().startswith(_CSV_OF_VIA3):
        raise DataError(f"{path}: a csv of VIA 3, which is not read; save the project there and give its json")
    separator = max(",;\t", key=header.count)
    before = csv.field_size_limit(len(text) + 1)  # an outline is one field; the limit is global
    try:
        reader = csv.DictReader(io.StringIO(text.lstrip("#"), newline=""), delimiter=separator)
        if not set(reader.fieldnames or ()) >= _COLUMNS:
            raise DataError(f"{path}: not VIA's csv; expected the columns {', '.join(sorted(_COLUMNS))}")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: not valid csv ({error})") from error
    finally:
        csv.field_size_limit(before)


def _json_object(text: Any) -> dict[str, Any] | None:
    """The object that a field of the csv holds; None if it holds none."""
    try:
        value = json.loads(text) if isinstance(text, str) and text.strip() else {}
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _from_via3(content: dict[str, Any], path: Path) -> Project:
    """VIA 3: files, views of them, and metadata that belong to a view: a region, or what holds for the whole image."""
    files, views, attributes = (_dict(content.get(name)) for name in ("file", "view", "attribute"))
    names = {id: _text(_dict(attribute).get("aname")) or str(id) for id, attribute in attributes.items()}
    choices = _choices({names[id]: attribute for id, attribute in attributes.items()})
    entries: dict[str, Entry] = {}
    faults: list[tuple[str, str]] = []
    for id, view in views.items():
        shown = _dict(view).get("fid_list")
        file = _dict(files.get(str(shown[0]))) if isinstance(shown, list) and len(shown) == 1 else {}
        if file.get("type") != _IMAGE_3:
            faults.append(("view that is not of one image", f"view {id}: {show(file.get('fname', shown))}"))
            continue
        source = _text(file.get("src"))
        inline = source if source.startswith("data:") else ""
        entries[str(id)] = Entry(file.get("fname") or source, [], {}, inline)
    for value in map(_dict, _dict(content.get("metadata")).values()):
        said = {names.get(id, str(id)): choice for id, choice in _dict(value.get("av")).items()}
        entry, xy = entries.get(str(value.get("vid"))), value.get("xy")
        if entry is not None and isinstance(xy, list) and xy:
            entry.regions.append(Region(_shape_of_via3(xy), said))
        elif entry is not None:
            entry.attributes.update(said)
    if not views:
        raise DataError(f"{path}: this project of VIA 3 has no files")
    return Project(list(entries.values()), choices, faults)


def _shape_of_via3(xy: list[Any]) -> dict[str, Any]:
    kind, *values = xy
    if not isinstance(kind, int):
        return {"name": show(kind)}
    if kind in _SHAPES_3:
        name, *parts = _SHAPES_3[kind]
        return {"name": name} | dict(itertools.zip_longest(parts, values[: len(parts)]))
    return {"name": _LISTS_3.get(kind, show(kind)), "all_points_x": values[0::2], "all_points_y": values[1::2]}


def _choices(attributes: Any) -> dict[str, dict[str, Any]]:
    found = {name: _dict(attribute).get("options") for name, attribute in _dict(attributes).items()}
    return {name: options for name, options in found.items() if isinstance(options, dict) and options}


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
