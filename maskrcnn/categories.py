"""The classes of a data set or a model, and where each one's keypoints stand among those of all."""

from collections.abc import Iterable
from typing import NamedTuple


class Category(NamedTuple):
    """A class as its data set calls it. Indices into its keypoints count from 0."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs of keypoints that a drawing connects
    flip_pairs: tuple[tuple[int, int], ...] = ()  # left and right, exchanged by a mirror
    sigmas: tuple[float, ...] = ()  # of OKS, one a keypoint, relative to the object's scale
    shared: bool = False  # its keypoints are those of every class, as in models of other frameworks


def category_table(categories: Iterable[Category]) -> str:
    """One line a category: id and name."""
    return "\n".join(f"  {category.id:>6}  {category.name}" for category in categories)


def keypoint_slices(categories: Iterable[Category]) -> list[slice]:
    """For each category, where its keypoints stand among the J keypoints of all."""
    slices, end = [], 0
    for category in categories:
        start = 0 if category.shared else end
        slices.append(slice(start, start + len(category.keypoints)))
        end = max(end, slices[-1].stop)
    return slices


def flip_pairs(categories: Iterable[Category]) -> list[tuple[int, int]]:
    """Left and right keypoints of all categories, as indices into the J keypoints."""
    categories = tuple(categories)
    pairs = (
        (part.start + a, part.start + b)
        for category, part in zip(categories, keypoint_slices(categories), strict=True)
        for a, b in category.flip_pairs
    )
    return list(dict.fromkeys(pairs))
