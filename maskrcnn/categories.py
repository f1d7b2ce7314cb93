"""The classes of a dataset or a model, and the place of their keypoints among those of all classes."""

from collections.abc import Iterable
from typing import NamedTuple

# The evaluation constants of COCO's person keypoints (cocoeval.py); any other keypoint gets 0.05, about their middle.
_SIGMAS = {
    "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107, "knee": 0.087,
    "ankle": 0.089,
}  # fmt: skip
COCO_SIGMAS = {"nose": 0.026} | {f"{side}_{part}": s for part, s in _SIGMAS.items() for side in ("left", "right")}
OTHER_SIGMA = 0.05


class Category(NamedTuple):
    """A class as its dataset defines it. Indices of keypoints count from 0."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs of keypoints that are drawn connected
    flip_pairs: tuple[tuple[int, int], ...] = ()  # left and right, which a horizontal flip exchanges
    sigmas: tuple[float, ...] = ()  # of OKS, one per keypoint, relative to the object's scale
    shared: bool = False  # all classes have the same keypoints, as in models of other frameworks
    text_id: str = ""  # the id as the data set states it, if that is no number


def category_table(categories: Iterable[Category]) -> str:
    """One line per category: id and name."""
    return "\n".join(f"  {category.id:>6}  {category.name}" for category in categories)


def keypoint_slices(categories: Iterable[Category]) -> list[slice]:
    """For each category, the place of its keypoints among the J keypoints of all."""
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
