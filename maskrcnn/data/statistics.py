"""What a data set is like, in a few numbers: what the rules in `training/recipes.py` know of it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .dataset import Dataset

_LOOKED_AT, _MOST_PIXELS = 128, 256e6  # images, and their pixels together, that are opened to see whether up matters
_CELLS = 8  # rows and columns to which an image is reduced for that
FEWEST = 32  # images from which a statement about up can be made


class Quantiles(NamedTuple):
    """Of a number that every object has. All are 0 if there are no objects."""

    q5: float
    q10: float
    q25: float
    q50: float
    q75: float
    q95: float
    q99: float


@dataclass(frozen=True)
class Statistics:
    """Of the images to train on and their objects, crowds left out. An object's size is the square root of its box's
    area.
    """

    images: int
    objects: int
    most: int  # objects of an image at most, crowds counted
    short_side: float  # pixels, median of the images
    side: float  # pixels, median of sqrt(height * width)
    elongation: float  # longer over shorter side, 95 % quantile of the images
    mean_area: float  # pixels, of an image
    sizes: Quantiles  # of the objects, pixels
    shares: Quantiles  # their sizes over the shorter side of their image
    ratios: Quantiles  # height / width
    # The share of images whose upright position can be guessed from the other images: by their pixels (a quarter by
    # chance), and by the objects' boxes (half by chance). None: there are too few images.
    upright_by_pixels: float | None
    upright_by_boxes: float | None
    judged: tuple[int, int]  # images that the two shares are of

    @property
    def up_matters(self) -> bool:
        """Whether an image that is turned by a right angle or mirrored up and down is no longer like the others.

        A share counts that exceeds chance by two and a half standard errors, as 1 in 40 does by chance. Without enough
        images the answer is yes, which is safe: then no image is turned.
        """
        shares = ((self.upright_by_pixels, 0.25), (self.upright_by_boxes, 0.5))
        if self.upright_by_pixels is None:
            return True
        return any(
            share is not None and share > chance + 2.5 * (chance * (1 - chance) / judged) ** 0.5
            for (share, chance), judged in zip(shares, self.judged, strict=True)
        )


def measure(dataset: Dataset, channels: int = 3, *, look: bool = True) -> Statistics:
    """Measures a data set with at least one image. At most 128 of its images are opened, none without `look`; those
    that cannot be read are passed over.
    """
    rows, counts = dataset.object_rows(), dataset.annotation_counts
    image_of = np.repeat(np.arange(len(dataset)), counts)
    boxes = dataset.objects.boxes[rows]
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = ~dataset.objects.ignore[rows] & (sides > 0).all(axis=1)
    image_of, (widths, heights) = image_of[kept], sides[kept].T
    image_sides = dataset.sizes.astype(np.float64)
    shorter, areas = image_sides.min(axis=1), image_sides.prod(axis=1)
    sizes, ratios = np.sqrt(widths * heights), heights / np.maximum(widths, 1e-9)
    thumbnails = _thumbnails(dataset, channels, _LOOKED_AT if look else 0)
    leanings = _leanings(ratios, image_of, len(dataset))
    return Statistics(
        images=len(dataset),
        objects=len(sizes),
        most=int(counts.max(initial=0)),
        short_side=float(np.median(shorter)),
        side=float(np.median(np.sqrt(areas))),
        elongation=float(np.quantile(image_sides.max(axis=1) / shorter, 0.95)),
        mean_area=float(areas.mean()),
        sizes=_quantiles(sizes),
        shares=_quantiles(sizes / shorter[image_of]),
        ratios=_quantiles(ratios),
        upright_by_pixels=_upright_by_pixels(thumbnails),
        upright_by_boxes=_upright_by_boxes(leanings),
        judged=(len(thumbnails), len(leanings)),
    )


def _quantiles(values: np.ndarray) -> Quantiles:
    if not len(values):
        return Quantiles(*[0.0] * len(Quantiles._fields))
    return Quantiles(*np.quantile(values, [int(name[1:]) / 100 for name in Quantiles._fields]).tolist())


# --- is up special? --------------------------------------------------------------------------------------------------
#
# Every image is compared with the mean of all others, as it is and turned by 90, 180 and 270 degrees. If up means
# nothing, the image as it is agrees best in a quarter of the cases. A sky above, a floor below or a person in the
# middle raise the share. The objects' boxes are judged likewise: a quarter turn exchanges height and width.


def _thumbnails(dataset: Dataset, channels: int, most: int) -> np.ndarray:
    """float64 [n 8 8]: images, evenly chosen, as the grey of 8 x 8 cells with mean 0 and standard deviation 1."""
    count = min(len(dataset), most)
    found, pixels = [], 0
    for i in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist() if count else ():
        height, width = dataset.sizes[i].tolist()
        pixels += height * width
        if min(height, width) < _CELLS or pixels > _MOST_PIXELS:
            continue
        try:
            with dataset.open(i) as source:
                image = source.read(channels=channels)
        except DataError:
            continue
        grey = image.mean(axis=2, dtype=np.float32)
        rows, columns = (np.linspace(0, side, _CELLS, endpoint=False).astype(int) for side in grey.shape)
        sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
        cells = sums / np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
        spread = cells.std()
        if spread > 1e-3:  # otherwise there is nothing to see
            found.append((cells - cells.mean()) / spread)
    return np.array(found, dtype=np.float64).reshape(-1, _CELLS, _CELLS)


def _upright_by_pixels(thumbnails: np.ndarray) -> float | None:
    """The share of images that agree best with the mean of the others if they are not turned."""
    n = len(thumbnails)
    if n < FEWEST:
        return None
    others = thumbnails.sum(axis=0) - thumbnails
    scores = np.stack([(np.rot90(thumbnails, turns, axes=(1, 2)) * others).sum(axis=(1, 2)) for turns in range(4)])
    return float((scores[0] > scores[1:].max(axis=0)).mean())


def _leanings(ratios: np.ndarray, image_of: np.ndarray, images: int) -> np.ndarray:
    """The mean logarithm of height / width of each image with objects; a quarter turn changes its sign."""
    sums = np.bincount(image_of, np.log(ratios), minlength=images)
    counts = np.bincount(image_of, minlength=images)
    return sums[counts > 0] / counts[counts > 0]


def _upright_by_boxes(leanings: np.ndarray) -> float | None:
    """The share of images whose boxes lean to the side to which the others lean in the mean."""
    if len(leanings) < FEWEST:
        return None
    others = leanings.sum() - leanings
    return float((np.sign(leanings) * np.sign(others) > 0).mean())
