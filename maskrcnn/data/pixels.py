"""What the pixels of a data set are like, from a bounded sample of its images: channels, range, mean and deviation.

A model of 8-bit RGB keeps ImageNet's mean and deviation. For all other pixels they are measured, and of deep ones the
range as well, once, when a training begins; the model's settings hold them.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..images import open_image, read_image
from ..images.depth import measure_ranges
from .dataset import Dataset

_HEADERS = 64  # images whose header is read
_IMAGES = 32  # images whose pixels are read
_PIXELS = 2**16  # of each of them
# Images of a set are scaled each by itself if, but for a tenth at either end, their ranges differ by more than this:
# some store 12 bits and others 16, or floats. One range for all would make the darker ones black.
_EXPOSURES = 8.0


class Survey(NamedTuple):
    """What the headers of some images say."""

    channels: int  # 3 for grey and RGB; another number if most images have it
    deep: bool  # whether some have more than 8 bits
    types: str  # in words: "uint16", "uint8 and float32"


class Measured(NamedTuple):
    """The pixels of some images, as a model of so many channels reads them."""

    range: tuple[tuple[float, float], ...]  # of deep pixels, for each channel; empty: each image has its own
    mean: tuple[float, ...]  # of 0..255, for each channel
    std: tuple[float, ...]
    images: int  # that were read


def survey(dataset: Dataset, seed: int = 0) -> Survey:
    """Reads the headers of at most 64 images; those that cannot be read are passed over."""
    channels: Counter[int] = Counter()
    types: Counter[str] = Counter()
    deep = False
    for row in _sample(dataset, _HEADERS, seed):
        try:
            with open_image(dataset.path(row), page=1) as image:
                channels[3 if image.channels == 1 else image.channels] += 1
                types[str(image.dtype)] += 1
                deep |= image.deep
        except DataError:
            continue
    most = channels.most_common(1)[0][0] if channels else 3
    return Survey(most, deep, " and ".join(sorted(types)) or "uint8")


def measure_pixels(dataset: Dataset, channels: int, seed: int = 0) -> Measured | None:
    """Reads at most 32 images, those with objects first; None if none can be read."""
    samples: list[np.ndarray] = []
    deep: list[np.ndarray] = []
    for row in _sample(dataset, _IMAGES, seed):
        try:
            with dataset.open(row) as image:
                pixels = image.sample(channels)
                samples.append(pixels[:: -(-len(pixels) // _PIXELS)])
                deep += [samples[-1]] if image.deep else []
        except DataError:
            continue
    if not samples:
        return None
    ranges = _common_range(deep)
    scaled = [read_image(sample, channels=channels, ranges=ranges).reshape(-1, channels) for sample in samples]
    values = np.concatenate(scaled).astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0).clip(min=1.0)
    return Measured(ranges, tuple(mean.round(3).tolist()), tuple(std.round(3).tolist()), len(samples))


def _common_range(samples: list[np.ndarray]) -> tuple[tuple[float, float], ...]:
    """The range of all samples [n 1 C], with the same weight each, or none if theirs differ too much."""
    if not samples:
        return ()
    own = np.array([measure_ranges(sample) for sample in samples])  # [images C 2]
    low, high = np.quantile((own[..., 1] - own[..., 0]).max(axis=1), [0.1, 0.9])
    if high > _EXPOSURES * low:
        return ()
    least = min(len(sample) for sample in samples)
    pooled = np.concatenate([sample[:: len(sample) // least] for sample in samples])
    return tuple((float(f"{low:.6g}"), float(f"{high:.6g}")) for low, high in measure_ranges(pooled))


def _sample(dataset: Dataset, most: int, seed: int) -> list[int]:
    """Rows of images, chosen by the seed; those without objects come last."""
    order = np.random.default_rng(seed % 2**64).permutation(len(dataset))
    empty = dataset.annotation_counts[order] == 0
    return order[np.argsort(empty, kind="stable")][:most].tolist()
