"""Files that are nearly COCO: recognised by their keys or their text, with what to do about each."""

from typing import Any

from .strangers import what_is

_COCO = ("images", "annotations", "categories")
# Keys of the first record of a list, the first that fit.
_IN_LISTS = (
    ({"image_id", "category_id"}, "a list of results, which has neither images nor categories; expected the "
     "annotations that the results belong to, a COCO json such as instances_val2017.json"),
    ({"segments_info"}, "a list of panoptic segments; expected a COCO json of instances, such as "
     "instances_val2017.json"),
    ({"images", "annotations"}, "a list of COCO objects; save each of them as a file of its own"),
    ({"file_name", "annotations"}, "Detectron2's list of images, each with its annotations; write it with its "
     "detectron2.data.datasets.coco.convert_to_coco_json"),
)  # fmt: skip


def not_coco(loaded: Any) -> str:
    """What a json is that is not COCO, and what to do, as the end of a sentence."""
    first = _first(loaded)
    if named := next((words for keys, words in _IN_LISTS if keys <= first.keys()), None):
        return named
    if known := what_is(loaded):
        return f"is {known}"
    expected = f"not COCO; expected an object with the lists {', '.join(_COCO)}"
    if isinstance(loaded, list):
        return f"{expected}, but it is a list"
    if not isinstance(loaded, dict):
        return expected
    if "videos" in loaded:
        return "annotations of videos (YouTube-VIS); expected those of images: write each frame as one"
    for key, value in loaded.items():
        if isinstance(value, dict) and {"images", "annotations"} <= value.keys():
            return f"not COCO, but holds it in {key!r}; save that object as a file of its own"
    if "annotations" in _first(loaded.get("images")):
        return (
            "not COCO; the annotations are in its images: put them into one list 'annotations', each with an image_id"
        )
    wrong = [key for key in _COCO if not isinstance(loaded.get(key), list | dict)]
    if wrong == ["categories"]:
        return (
            "there is no list 'categories', so the objects have no class; add it, with an id and a name for each class"
        )
    return f"{expected}, but there is no list {', '.join(map(repr, wrong))}"


def what_text(text: str) -> str | None:
    """What a text is that is no json, as the end of a sentence; None if nothing tells."""
    if text.lstrip().startswith(("{'", "[{'")):
        return "not json, but Python's own notation, in single quotes; write it with json.dump"
    lines = [line for line in text.splitlines() if line.strip()][:2]
    if len(lines) == 2 and all(line.lstrip()[:1] == "{" for line in lines) and lines[0].rstrip()[-1:] == "}":
        return "not one json, but one in each line; expected a COCO json, an object with the lists " + ", ".join(_COCO)
    return None


def _first(entries: Any) -> dict[str, Any]:
    first = entries[0] if isinstance(entries, list) and entries else {}
    return first if isinstance(first, dict) else {}
