"""Divides the images of a data set into train, val and test: by image, or by groups of images that stay together.

Each group has a place that follows from the seed and its own name, so the parts do not depend on the order of the
images, and an image that is added moves few others.
"""

import hashlib
import re
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, DataError
from .dataset import Dataset

PARTS = ("train", "val", "test")
HELD_OUT = (0.9, 0.1)  # of data that is not divided, if nothing else is asked for


class Division(NamedTuple):
    """A data set's images in parts, and how they were chosen."""

    whole: Dataset
    parts: dict[str, np.ndarray]  # int64, ascending indices of the images; "train", "val" and perhaps "test"
    fractions: tuple[float, ...]
    seed: int
    group_by: str | None
    ungrouped: int  # images whose names `group_by` does not match; each is a group of its own

    def describe(self) -> str:
        """One line: the parts and their sizes."""
        sizes = ", ".join(f"{len(indices)} {part}" for part, indices in self.parts.items())
        if self.group_by is None:
            return f"divided by image: {sizes}"
        alone = f"; {self.ungrouped} images do not match and stand alone" if self.ungrouped else ""
        return f"divided by groups of {self.group_by!r}: {sizes}{alone}"

    def listing(self) -> dict[str, Any]:
        """All of it, with id and file name of each image, ready for JSON."""
        how = {"fractions": list(self.fractions), "seed": self.seed, "group_by": self.group_by}
        ids = self.whole.image_ids.tolist()
        images = {
            part: [{"id": ids[i], "file": self.whole.name(i)} for i in indices.tolist()]
            for part, indices in self.parts.items()
        }
        return {"data": str(self.whole.source), **how, **images}


def parse_fractions(text: str) -> tuple[float, ...]:
    """The shares of train, val and perhaps test in a text such as "0.8,0.1,0.1". Raises `ConfigError`."""
    try:
        fractions = tuple(float(word) for word in text.split(","))
    except ValueError:
        fractions = ()
    if len(fractions) not in (2, 3) or not all(share > 0 for share in fractions) or abs(sum(fractions) - 1) > 0.001:
        raise ConfigError(f"--split is the shares of train, val and perhaps test, such as 0.8,0.1,0.1; not {text!r}")
    return fractions


def divide(
    dataset: Dataset, fractions: tuple[float, ...] = HELD_OUT, *, seed: int = 0, group_by: str | None = None
) -> Division:
    """Divides a data set. Entries with the same file name are always in the same part.

    Args:
        dataset: of any size.
        fractions: of the images, for train, val and perhaps test. Groups are not cut, so the parts differ from them.
        seed: another seed gives other parts.
        group_by: a regular expression that is searched in the file names; images with the same match, or the same first
            group of it, stay together.

    Raises `ConfigError` for an expression that is not valid or matches no name, and `DataError` if there are fewer
    groups than parts.
    """
    names = [dataset.name(i) for i in range(len(dataset))]
    keys, ungrouped = _keys(names, group_by)
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    parts = PARTS[: len(fractions)]
    if len(groups) < len(parts):
        what = "images of different names" if group_by is None else f"groups of --group-by {group_by!r}"
        raise DataError(f"{dataset.source}: has {len(groups)} {what}, too few to fill {', '.join(parts)}")
    chosen = _assign({key: len(members) for key, members in groups.items()}, fractions, seed)
    indices = {part: np.array(sorted(i for key in chosen[part] for i in groups[key]), np.int64) for part in parts}
    return Division(dataset, indices, fractions, seed, group_by, ungrouped)


def _keys(names: list[str], group_by: str | None) -> tuple[list[str], int]:
    """The group of each image, and how many match no group."""
    if group_by is None:
        return names, 0
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ConfigError(f"--group-by {group_by!r} is not a regular expression: {error}") from error
    matches = [pattern.search(name) for name in names]
    ungrouped = matches.count(None)
    if names and ungrouped == len(names):
        raise ConfigError(f"--group-by {group_by!r} matches no file name, such as {names[0]!r}")
    keys = [f"image {name}" if m is None else f"group {_text(m)}" for name, m in zip(names, matches, strict=True)]
    return keys, ungrouped


def _text(match: re.Match[str]) -> str:
    return match[1] if match.re.groups and match[1] is not None else match[0]


def _assign(sizes: dict[str, int], fractions: tuple[float, ...], seed: int) -> dict[str, list[str]]:
    """The groups of each part. val, then test, take groups in the seed's order while that brings them closer to their
    share; train has the rest. A part that found none gets the smallest group of the part that has most.
    """
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    total = sum(sizes.values())
    parts: dict[str, list[str]] = {part: [] for part in PARTS[: len(fractions)]}
    for part, share in list(zip(PARTS, fractions, strict=False))[1:]:
        filled, rest = 0, []
        for key in order:
            if filled + sizes[key] / 2 <= share * total + 1e-9:
                filled += sizes[key]
                parts[part].append(key)
            else:
                rest.append(key)
        order = rest
    parts["train"] = order
    for part in parts:
        if not parts[part]:
            most = max(parts.values(), key=len)
            smallest = min(most, key=sizes.__getitem__)
            most.remove(smallest)
            parts[part].append(smallest)
    return parts
