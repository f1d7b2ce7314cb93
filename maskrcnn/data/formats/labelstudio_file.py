"""Label Studio's exports in json, brought into one form: tasks, each with the regions of one annotation.

JSON is the list of tasks with their annotations, or a file for each task or annotation; JSON-MIN has one entry for each
annotation, with the regions of a control tag under the tag's name. An annotation's results with one id are one region:
where the labels are a tag of their own, the shape is in one result and the label in another.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import DataError
from ...images import IMAGE_SUFFIXES
from ..validate import integer, is_text, show
from .files import load_json, peek

ONE_TASK, _EXPORT = 1, 2  # ranks of files
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts eight digits before the name of an uploaded file


class Region(NamedTuple):
    """A region of an image: what its shape is, in percent of the image, and what it is called."""

    value: dict[str, Any]
    labels: list[str]
    keypoint: bool
    rotation: Any  # of the image, in degrees, while it was labelled
    crowd: bool


class Task(NamedTuple):
    """An image and the regions of the annotation that counts, None if it has none."""

    image: str
    regions: list[Region] | None
    size: tuple[int, int] | None  # (height, width) of the image that was labelled
    others: int  # annotations that do not count
    why: str = "image without annotations, left out"  # if there are no regions


def rank(path: Path) -> int:
    """What a file's beginning looks like: an export, `ONE_TASK`, or 0 for another format."""
    head = peek(path)
    annotated = any(key in head for key in (b'"annotations"', b'"completions"', b'"predictions"'))
    if re.match(rb"\[\s*\{", head):
        minimal = b'"annotation_id"' in head or b'"original_width"' in head
        return _EXPORT * (minimal or (annotated and (b'"data"' in head or b'"result"' in head)))
    annotated |= b'"task"' in head and b'"completed_by"' in head
    return ONE_TASK * (head.startswith(b"{") and annotated and b'"result"' in head)


def load(path: Path, files: Sequence[Path]) -> tuple[list[Task], list[tuple[str, str]]]:
    """The tasks of all files, and those that are none with an image, with a reason and a detail.

    Raises `DataError`, naming `path`, if there is no task, or if the only file cannot be read.
    """
    tasks, faults = [], []
    grouped: dict[tuple[str, bool], list[dict[str, Any]]] = {}  # annotations that stand apart, by their image
    for where, entry in _entries(files, faults):
        own = _dict(entry.get("task"))  # a storage has one file for each annotation, with its task in it
        data = next((data for one in (entry, own) if (data := _dict(one.get("data")))), {})
        image = _image_of(data or entry)
        if image is None:
            faults.append(("task without one image", where))
        elif data and not own:
            tasks.append(_task(entry, image))
        else:
            grouped.setdefault((image, bool(own)), []).append(entry)
    for (image, full), annotations in grouped.items():
        tasks.append(_task({"annotations": annotations}, image) if full else _minimal_task(image, annotations))
    if not tasks:
        raise DataError(f"{path}: not Label Studio's; there is no task with an image")
    return tasks, faults


def _entries(files: Sequence[Path], faults: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every entry of the files, with where it stands."""
    for file in files:
        try:
            content = load_json(file)
        except DataError as error:
            if len(files) == 1:
                raise
            faults.append(("annotation file that cannot be read", str(error)))
            continue
        for place, entry in enumerate(content if isinstance(content, list) else [content], start=1):
            if isinstance(entry, dict):
                yield f"{file.name}, task {show(entry.get('id', place))}", entry
            else:
                faults.append(("task without one image", f"{file.name}, entry {place}"))


def _image_of(data: dict[str, Any]) -> str | None:
    """What a task calls its image: the field "image", else the only one that looks like the name of an image."""
    texts = {key: value for key, value in data.items() if is_text(value) and value}
    if "image" in texts:
        return texts["image"]
    named = [value for value in texts.values() if any(n.lower().endswith(IMAGE_SUFFIXES) for n in names_of(value))]
    named = named or [value for value in texts.values() if value.startswith(("data:image/", "/tasks/"))]
    return named[0] if len(named) == 1 else None


def names_of(stated: str) -> list[str]:
    """What the file of an image may be called: its path in an address or in a storage, the name before its upload."""
    if stated.startswith("data:"):
        return []
    names = [stated]
    if "://" in stated or stated.startswith("/"):
        try:
            parts = urlsplit(stated)
            query = parse_qs(parts.query)
        except ValueError:
            return names
        names.append(unquote(f"{parts.netloc}{parts.path}"))
        names += query.get("d", [])  # of /data/local-files/
        for code in query.get("fileuri", []):  # of a storage: the address in base64
            try:
                names += names_of(base64.b64decode(code + "==").decode())[:2]
            except (binascii.Error, ValueError):
                continue
    uploaded = _UPLOADED.fullmatch(re.split(r"[/\\]", names[-1])[-1])
    return list(dict.fromkeys([*reversed(names), *([uploaded[1]] if uploaded else [])]))


def _task(entry: dict[str, Any], image: str) -> Task:
    """A task as Label Studio exports it. Of several annotations the ground truth counts, else the newest."""
    listed = entry.get("annotations", entry.get("completions"))  # versions before 1.0
    annotations = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    done = [one for one in annotations if not one.get("was_cancelled") and not one.get("skipped")]
    if not done:
        predicted = isinstance(entry.get("predictions"), list) and entry["predictions"]
        why = "task that was skipped in Label Studio" if annotations else Task._field_defaults["why"]
        return Task(
            image, None, None, 0, "image with predictions only, left out" if predicted and not annotations else why
        )
    chosen = max(
        enumerate(done), key=lambda one: (one[1].get("ground_truth") is True, str(one[1].get("created_at")), one[0])
    )
    results = chosen[1].get("result")
    results = [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []
    return Task(image, _regions(results), _size_of(results), len(done) - 1)


def _minimal_task(image: str, annotations: list[dict[str, Any]]) -> Task:
    """A task of JSON-MIN: every list of regions is the result of a control tag, whose name is its key."""
    newest = max(enumerate(annotations), key=lambda one: (str(one[1].get("created_at")), one[0]))[1]
    results = [
        {"value": region, "type": region.get("type")}
        | {key: region.get(key) for key in ("id", "original_width", "original_height", "image_rotation")}
        for regions in newest.values()
        if isinstance(regions, list)
        for region in regions
        if isinstance(region, dict)
    ]
    return Task(image, _regions(results), _size_of(results), len(annotations) - 1)


def _regions(results: list[dict[str, Any]]) -> list[Region]:
    """The regions of results that belong together by their id. Answers that concern the whole image are none."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for place, result in enumerate(results):
        if isinstance(result.get("value"), dict):
            id = result.get("id")
            groups.setdefault(place if id in (None, "") else show(id), []).append(result)
    regions = []
    for members in groups.values():
        value = {key: part for result in members for key, part in result["value"].items()}
        if not value.keys() & {"points", "rle", "width", "radiusX", "vertices", "imageDataURL"}:
            continue
        lists = [part for key, part in value.items() if key.endswith("labels") and isinstance(part, list)]
        labels = list(dict.fromkeys(label for part in lists for label in part if is_text(label) and label))
        keypoint = "keypointlabels" in value or any("keypoint" in str(result.get("type")) for result in members)
        notes = [meta.get("text") for result in members if isinstance(meta := result.get("meta"), dict)]
        crowd = any("crowd" in text for text in notes if isinstance(text, list))
        turned = next((result["image_rotation"] for result in members if result.get("image_rotation")), 0)
        regions.append(Region(value, labels, keypoint, turned, crowd))
    return regions


def _size_of(results: list[dict[str, Any]]) -> tuple[int, int] | None:
    for result in results:
        height, width = integer(result.get("original_height")), integer(result.get("original_width"))
        if height and width and height > 0 and width > 0:
            return height, width
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
