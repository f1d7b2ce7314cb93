"""Annotation files of tools that are not read: what they are by their content, and what to export instead.

Without it, such a file is only "not COCO", which helps nobody whose tool calls its export json.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MOST_FILES = 20  # of a folder that are looked into
_MOST_BYTES = 1 << 26  # of one of them
_PEEK = 1 << 16  # bytes of a table that show its columns


class _Stranger(NamedTuple):
    keys: frozenset[str]  # of the file's object, or of the first one of its list
    inner: frozenset[str]  # of an object within it
    name: str
    instead: str = "export COCO json"


def _of(keys: str, name: str, inner: str = "", **instead: str) -> _Stranger:
    return _Stranger(frozenset(keys.split("|")), frozenset(inner.split("|") if inner else ()), name, **instead)


_STRANGERS = (
    _of("Labeled Data|Label", "Labelbox's own json"),
    _of("data_row|projects", "Labelbox's own json"),
    _of("tags|size|objects", "Supervisely's own json"),
    _of("schema_ref|item|annotations", "V7's own json (Darwin)"),
    _of("image|annotations", "V7's own json (Darwin)", "bounding_box|name"),
    _of("image|annotations", "CreateML's json of boxes", "coordinates|label"),
    _of("image|annotations", "Segment Anything's json, masks without classes", "predicted_iou", instead=
        "give each mask a category, and write COCO json"),
    _of("asset|regions", "VoTT's own json", instead="export Pascal VOC"),
    _of("assets|tags|name", "VoTT's own json", instead="export Pascal VOC"),
    _of("categories|items", "Datumaro's own json", instead="convert it to COCO with datum convert -f coco_instances"),
    _of("metadata|instances", "SuperAnnotate's own json"),
    _of("samples", "FiftyOne's own json", "filepath", instead="export it as fiftyone.types.COCODetectionDataset"),
    _of("dataset|name", "Segments.ai's own json", "samples"),
    _of("_id|filename|annotations", "Dataloop's own json"),
    _of("filename|annotations", "Dataloop's own json", "coordinates"),
    _of("name|labels", "BDD100K's json", "category", instead="convert it to COCO with bdd100k.label.to_coco"),
    _of("source-ref", "a manifest of SageMaker Ground Truth"),
    _of("imgHeight|imgWidth|objects", "Cityscapes' json of one image", instead=
        "give the folder that has gtFine and leftImg8bit, with the split and the city below each"),
    _of("images|annotations", "captions, which name no object", "caption", instead="expected COCO's instances"),
    _of("type|features", "GeoJSON", instead="expected the outlines of images: export COCO json, or label images"),
)  # fmt: skip
_COLUMNS = (
    ({"imageid", "encodedpixels"}, "run lengths of Kaggle, whose pixels are counted down the columns",
     "write a mask file for each object, or COCO json"),
    ({"filename", "xmin", "ymin", "xmax", "ymax"}, "a table of boxes, as TensorFlow's examples use it",
     "write Pascal VOC or COCO json"),
    ({"imageid", "labelname", "xmin"}, "Open Images' table of boxes", "write COCO json"),
    ({"maskpath", "imageid", "labelname"}, "Open Images' table of masks", "write COCO json"),
)  # fmt: skip


def what_is(content: Any) -> str | None:
    """Whose annotations the content of a json is, with what to do instead; None if it is not known."""
    outer = content[0] if isinstance(content, list) and content else content
    if not isinstance(outer, dict):
        return None
    within = [inner.keys() for inner in _objects_in(outer)]
    for stranger in _STRANGERS:
        if stranger.keys <= outer.keys() and (not stranger.inner or any(stranger.inner <= keys for keys in within)):
            return f"{stranger.name}, which is not read; {stranger.instead}"
    return None


def describe_file(path: Path) -> str | None:
    """What an annotation file is, if it is known and not read."""
    if path.suffix.lower() == ".csv":
        return _of_table(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        return what_is(
            _first_line(path)
            if path.suffix.lower() in (".ndjson", ".jsonl", ".manifest")
            else json.loads(path.read_bytes())
        )
    except (OSError, ValueError, RecursionError):
        return None


def describe_folder(folder: Path) -> str | None:
    """A sentence about the first files in a folder, or in one below it, that could be annotations; None without any."""
    suffixes = (".json", ".ndjson", ".jsonl", ".manifest", ".csv")
    files = [path for pattern in ("*", "*/*") for path in sorted(itertools.islice(folder.glob(pattern), 10_000))
             if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()]  # fmt: skip
    for path in files[:_MOST_FILES]:
        if what := describe_file(path):
            return f"{path.relative_to(folder).as_posix()} is {what}"
    if tables := [path for path in files if path.suffix.lower() != ".csv"]:
        return f"{tables[0].relative_to(folder).as_posix()} is of none of them: export it as one of them from its tool"
    return None


def _objects_in(outer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects that are values of an object, or the first in its lists."""
    for value in outer.values():
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, dict):
            yield value


def _first_line(path: Path) -> Any:
    with path.open("rb") as file:
        return json.loads(file.readline(_MOST_BYTES))


def _of_table(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.readline(_PEEK).decode("utf-8-sig", "replace")
    except OSError:
        return None
    columns = {column.strip().strip('"').replace("_", "").replace(" ", "").lower() for column in head.split(",")}
    for wanted, name, instead in _COLUMNS:
        if wanted <= columns:
            return f"{name}; {instead}"
    return None
