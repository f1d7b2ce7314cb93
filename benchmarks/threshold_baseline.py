"""python benchmarks/threshold_baseline.py [FOLDER]

The mask AP that thresholds, connected components and colour histograms reach on the drawn data set. It must stay below
0.15: otherwise the data set would need no training. The images are those of `make demo`. They are taken from FOLDER
(such as runs/demo/data; default: a temporary folder) or drawn there if it has none. Takes some minutes.

Foreground is what Otsu's threshold separates in one of four grey images: brightness, darkness, distance from the colour
of the border, distance from it in hue. Each connected part is an object. Its class is that of the nearest neighbours of
its colour histogram among the training objects, and its score is their share of the vote. The grey image and the least
size of a part that do best on a twelfth of the training images are used on val.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.drawn import draw_dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.demo import DATA_SEED, TRAIN_IMAGES, VAL_IMAGES
from maskrcnn.evaluation.coco import measure_rows
from maskrcnn.images import read_image
from maskrcnn.ops.rle import counts_from_bitmap, string_from_counts

BINS = 6  # of each colour channel
NEIGHBOURS = 15
SMALLEST_PARTS = (20, 60, 150)  # pixels
BAR = 0.15


def bright(pixels: np.ndarray) -> np.ndarray:
    """Grey value."""
    return pixels.mean(axis=2)


def dark(pixels: np.ndarray) -> np.ndarray:
    """255 minus the grey value."""
    return 255 - bright(pixels)


def far_from_border(pixels: np.ndarray) -> np.ndarray:
    """Distance to the median colour of the border, 0..255."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.abs(pixels - np.median(border, axis=0)).mean(axis=2)


def far_in_hue(pixels: np.ndarray) -> np.ndarray:
    """The same for chromaticity, in which light and shade make no difference, 0..255."""
    return far_from_border(255 * pixels / np.maximum(pixels.sum(axis=2, keepdims=True), 1))


IMAGES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (bright, dark, far_from_border, far_in_hue)


def otsu(values: np.ndarray) -> float:
    """The threshold with the least variance within the two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    gap = sums / np.maximum(below, 1) - (sums[-1] - sums) / np.maximum(above, 1)
    return float(edges[1 + int((below * above * gap**2).argmax())])


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean of 3 x 3 pixels."""
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def connected_parts(mask: np.ndarray) -> np.ndarray:
    """int64 [H W]: 0 outside, otherwise one number for all pixels that are connected through their sides."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    pairs = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    touching = [np.stack([a[(a > 0) & (b > 0)], b[(a > 0) & (b > 0)]]) for a, b in pairs]
    one, other = np.concatenate(touching, axis=1)
    root = np.arange(mask.size + 1)
    while (root[one] != root[other]).any():
        low = np.minimum(root[one], root[other])
        np.minimum.at(root, root[one], low)
        np.minimum.at(root, root[other], low)
        while (root != root[root]).any():
            root = root[root]
    return root[labels]


def histogram(colours: np.ndarray) -> np.ndarray:
    """Square roots of the shares of BINS ** 3 colours: the dot product of two is their Bhattacharyya coefficient."""
    bins = (colours.astype(np.int64) * BINS // 256) @ np.array([BINS * BINS, BINS, 1])
    counts = np.bincount(bins, minlength=BINS**3)
    return np.sqrt(counts / max(1, counts.sum()))


def training_histograms(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Histograms [n BINS**3] and labels [n] of all objects."""
    from faster_coco_eval.core import mask as mask_api

    histograms, labels = [], []
    for i in range(len(dataset)):
        record = dataset.record(i)
        pixels = read_image(record.path)
        for label, segmentation in zip(record.labels, record.segmentations, strict=True):
            if isinstance(segmentation, list):
                polygons = [polygon.ravel().tolist() for polygon in segmentation]
                rle = mask_api.merge(mask_api.frPyObjects(polygons, *record.size))
            elif segmentation is not None:
                rle = {"size": list(record.size), "counts": string_from_counts(segmentation[0])}
            else:
                continue
            histograms.append(histogram(pixels[mask_api.decode(rle).astype(bool)]))
            labels.append(int(label))
    return np.array(histograms), np.array(labels)


def predict(
    dataset: Dataset, image: Callable[[np.ndarray], np.ndarray], known: tuple[np.ndarray, np.ndarray]
) -> list[dict]:
    """COCO rows of the three most likely classes of each part, with its number of pixels."""
    rows = []
    for i in range(len(dataset)):
        record = dataset.record(i)
        pixels = read_image(record.path)
        values = smooth(image(pixels.astype(np.float64)))
        parts = connected_parts(values > otsu(values))
        numbers, sizes = np.unique(parts[parts > 0], return_counts=True)
        for number in numbers[(sizes >= SMALLEST_PARTS[0]) & (sizes < parts.size / 3)]:
            mask = parts == number
            votes = vote(histogram(pixels[mask]), known, len(dataset.categories))
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            rle = {"size": list(record.size), "counts": string_from_counts(counts_from_bitmap(mask))}
            for label in np.argsort(-votes)[:3]:
                rows.append({
                    "image_id": record.image_id,
                    "category_id": dataset.categories[label].id,
                    "score": float(votes[label]),
                    "bbox": [float(side) for side in box],
                    "segmentation": rle,
                    "pixels": int(mask.sum()),
                })  # fmt: skip
    return rows


def vote(one: np.ndarray, known: tuple[np.ndarray, np.ndarray], classes: int) -> np.ndarray:
    """The classes' shares in the similarity to the nearest neighbours, float64 [classes]."""
    likeness = known[0] @ one
    nearest = np.argsort(-likeness)[:NEIGHBOURS]
    return np.bincount(known[1][nearest], weights=likeness[nearest], minlength=classes) / NEIGHBOURS


def measure(folder: Path) -> float:
    """Prints the baseline's figures and returns its mask AP on val."""
    draw_dataset(folder, train=TRAIN_IMAGES, val=VAL_IMAGES, seed=DATA_SEED, keypoints=False)
    train, val = read_dataset(folder / "train.json"), read_dataset(folder / "val.json")
    held = np.arange(0, len(train), 12)
    tuning, known = train.subset(held), training_histograms(train.subset(np.setdiff1d(np.arange(len(train)), held)))
    best = (-1.0, IMAGES[0], SMALLEST_PARTS[0])
    for image in IMAGES:
        rows = predict(tuning, image, known)
        for smallest in SMALLEST_PARTS:
            found = measure_rows(tuning, at_least(smallest, rows), tasks=["mask"])[0]["mask"]["AP"]
            print(f"{image.__name__:>16}, parts of {smallest:>3} pixels or more: mask AP {found:.3f} on train images")
            best = max(best, (found, image, smallest), key=lambda entry: entry[0])
    rows = at_least(best[2], predict(val, best[1], known))
    metrics, _ = measure_rows(val, rows, tasks=["box", "mask"])
    anything, _ = measure_rows(one_class(val), [{**row, "category_id": 1} for row in rows[::3]], tasks=["mask"])
    print(f"val, {best[1].__name__}, {best[2]} pixels: mask AP {metrics['mask']['AP']:.3f}", end=", ")
    print(f"AP50 {metrics['mask']['AP50']:.3f}; box AP {metrics['box']['AP']:.3f}", end="; ")
    print(f"mask AP without regard to class {anything['mask']['AP']:.3f}")
    return float(metrics["mask"]["AP"])


def at_least(smallest: int, rows: list[dict]) -> list[dict]:
    """The rows of parts with at least so many pixels."""
    return [row for row in rows if row["pixels"] >= smallest]


def one_class(dataset: Dataset) -> Dataset:
    """The same objects, all of one class."""
    objects = dataset.objects._replace(labels=np.zeros_like(dataset.objects.labels))
    first = dataset.categories[0]._replace(id=1)
    return replace(dataset, categories=(first,), objects=objects)


def main() -> int:
    """0 if the bar holds, 1 if the data set is too easy."""
    if len(sys.argv) > 1:
        found = measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder))
    print(f"the bar, mask AP below {BAR}: {'holds' if found < BAR else 'FAILS'}")
    return int(found >= BAR)


if __name__ == "__main__":
    sys.exit(main())
