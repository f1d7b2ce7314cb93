"""What of a difference between two evaluations of the same images is more than the choice of these images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .matches import Matches, average_precisions, draw_lists, mean_precision

LEVEL = 0.95
FEW_IMAGES = 10  # with objects of a class; below that an interval over images would mean nothing


class Estimate(NamedTuple):
    """A figure and its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def outside(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


class Spread(NamedTuple):
    """AP of one evaluation, of all images and of B drawn lists of them. K classes."""

    ap: float
    classes: np.ndarray  # float64 [K], NaN without objects
    drawn: np.ndarray  # float64 [B]
    drawn_classes: np.ndarray  # float64 [B K]
    images: np.ndarray  # int64 [K], that hold objects of each class


def spread(matches: Matches, count: int, seed: int = 0) -> Spread:
    """The same `count` and `seed` give the same lists for all evaluations of the same images: they can be compared."""
    N, K = len(matches.image_ids), len(matches.names)
    every = average_precisions(matches, np.ones((1, N), dtype=np.int32))
    drawn = average_precisions(matches, draw_lists(N, count, seed))
    holders = np.unique(matches.object_labels.astype(np.int64) * N + matches.object_images)
    images = np.bincount(holders // max(N, 1), minlength=K)
    return Spread(
        float(mean_precision(every)[0]), every[0].mean(axis=1), mean_precision(drawn), drawn.mean(axis=2), images
    )


def estimate(spread: Spread) -> Estimate:
    """AP with its interval."""
    return _interval(spread.ap, spread.drawn)


def difference(base: Spread, other: Spread) -> Estimate:
    """By how much AP of `other` is higher."""
    return _interval(other.ap - base.ap, other.drawn - base.drawn)


def class_differences(base: Spread, other: Spread) -> Mapping[int, Estimate]:
    """The same for each class that has objects; without an interval if they are in fewer than `FEW_IMAGES` images."""
    known = np.flatnonzero(~np.isnan(base.classes))
    return {
        k: _interval(
            float(other.classes[k] - base.classes[k]),
            (other.drawn_classes - base.drawn_classes)[:, k] if base.images[k] >= FEW_IMAGES else np.zeros(0),
        )
        for k in known.tolist()
    }


def _interval(value: float, drawn: np.ndarray) -> Estimate:
    """The quantiles of what was drawn, moved so that its mean is the value: AP of a list with copies is a little too
    high, because copies of a detection agree with each other.
    """
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - drawn.mean()
    return Estimate(value, value + float(low), value + float(high))
