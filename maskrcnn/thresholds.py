"""The least score of each class that counts as found, in the order of the classes; empty if nobody measured it."""

from collections.abc import Sequence
from typing import TypeAlias

from .categories import Category

Thresholds: TypeAlias = tuple[float, ...]  # 0..1, one for each class

UNMEASURED = 0.5  # of a model that no training evaluated


def in_words(thresholds: Sequence[float]) -> str:
    """Such as "0.43", or "0.38 to 0.61, by class"."""
    low, high = (f"{end:.2f}" for end in (min(thresholds), max(thresholds)))
    return low if low == high else f"{low} to {high}, by class"


def for_categories(
    thresholds: Sequence[float], own: Sequence[Category], wanted: Sequence[Category], *, default: float
) -> Thresholds:
    """The thresholds of `own` categories for `wanted` ones of the same names; `default` for other names."""
    known = {category.name: value for category, value in zip(own, thresholds, strict=True)}
    return tuple(known.get(category.name, default) for category in wanted)
