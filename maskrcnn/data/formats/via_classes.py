"""Which attribute of VIA's regions is the class: VIA lets users define any, under any name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..validate import is_text
from .via_file import Entry, Project, Region

OWN = ("group_id", "score", "crowd")  # attributes of our writer, which are no classes
# What people call it, the surest first. Each may also be plural, or have "_name" or "_id" behind it.
_USUAL = ("class", "label", "category", "type", "object", "species", "name")


@dataclass(frozen=True)
class ClassOf:
    """Gives the class of a region, None if it has none."""

    attribute: str | None  # of the region; None: all regions are one class
    of_file: bool = False  # the attribute is the image's
    by_key: bool = False  # the region's only attribute is the class by its name, and is empty
    choices: dict[str, Any] | None = None  # of the attribute, {id: description}
    note: str = ""  # for the report, if the choice is a guess

    def __call__(self, region: Region, entry: Entry) -> str | None:
        if self.by_key:
            return next((key for key in region.attributes if key not in OWN), None)
        if self.attribute is None:
            return "object"
        value = value_of((entry if self.of_file else region).attributes.get(self.attribute))
        if self.choices and all(key.isdigit() for key in self.choices):  # as in VIA 3, and in classes from COCO
            return value_of(self.choices.get(value or "")) or value
        return value


def value_of(value: Any) -> str | None:
    """What an attribute says, None if nothing: a text or number, or the only choice that is ticked."""
    if isinstance(value, dict):
        ticked = [key for key, on in value.items() if on is True]
        return ticked[0] if len(ticked) == 1 else None
    text = str(value).strip() if isinstance(value, int | float | str) else ""
    return text if text and is_text(text) else None


def choose_class(path: Path, project: Project) -> ClassOf:
    """The attribute that all regions have a value of; of several the one with a usual name, or with a list of choices.

    Regions without any attribute are all of one class, "object". Raises `DataError`, with what was found, if several
    attributes would do.
    """
    entries = [entry for entry in project.entries if entry.regions]
    regions = [region for entry in entries for region in entry.regions]
    filled = Counter(
        name for region in regions for name, value in region.attributes.items() if name not in OWN and value_of(value)
    )
    if not filled:
        return _without_values(entries, regions)
    complete = [name for name, count in filled.items() if count == len(regions)]
    for names in (complete, list(filled)):
        chosen = names if len(names) == 1 else _usual(names) or [name for name in names if name in project.choices]
        if len(chosen) == 1:
            return ClassOf(chosen[0], choices=project.choices.get(chosen[0]))
    if complete and all(len({value_of(region.attributes[name]) for name in complete}) == 1 for region in regions):
        return ClassOf(complete[0], choices=project.choices.get(complete[0]))  # whichever: they all say the same
    found = ", ".join(f"{name} (of {count} regions)" for name, count in filled.most_common(8))
    raise DataError(
        f"{path}: it is not clear which attribute of its {len(regions)} regions is the class; there are {found}; "
        "rename the right one to 'class'"
    )


def _without_values(entries: Sequence[Entry], regions: Sequence[Region]) -> ClassOf:
    keys = {tuple(key for key in region.attributes if key not in OWN) for region in regions}
    if len(keys) > 1 and all(len(key) == 1 for key in keys):
        return ClassOf(None, by_key=True, note="regions whose only attribute is empty: its name is taken as the class")
    whole = [
        name
        for name in (entries[0].attributes if entries else ())
        if all(value_of(e.attributes.get(name)) for e in entries)
    ]
    if chosen := _usual(whole):
        return ClassOf(chosen[0], of_file=True, note=f"the class of regions is their image's attribute {chosen[0]!r}")
    return ClassOf(None, note="no region has an attribute: all are of one class, 'object'")


def _usual(names: Sequence[str]) -> list[str]:
    """The name that is most usual for a class, alone; or nothing."""
    plain = {
        name: name.lower().replace(" ", "_").removesuffix("_name").removesuffix("_id").rstrip("s") for name in names
    }
    for usual in _USUAL:
        if found := [name for name in names if plain[name] in (usual, usual.rstrip("s"))]:
            return found[:1]
    return []
