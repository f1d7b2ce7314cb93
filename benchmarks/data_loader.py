"""An epoch of the data loader, resized to 800 and ready for training steps: ours beside torchvision's.

    python -m benchmarks.data_loader [--quick]

Drawn PNGs of 640 x 480 with 7 objects each, mirrored at random, two workers, batches of two. torchvision works as in
its training reference: CocoDetection, a bitmap of each object by pycocotools, and the model's transform, which resizes
images and bitmaps in the main process.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from maskrcnn.config import AugmentConfig, ModelConfig
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import TrainLoader

from .harness import Left, Options, Row, Work, against, interleaved, require, run
from .scenes import ellipses, write_coco

SIZE, OBJECTS, CLASSES, BATCH, WORKERS = (480, 640), 7, 80, 2, 2


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    images = options.rounds(64, 8)
    rng = np.random.default_rng(0)
    scenes = [ellipses(rng, SIZE, OBJECTS, (8.0, 100.0)) for _ in range(images)]
    labels = [rng.integers(0, CLASSES, len(bitmaps)) for _, bitmaps in scenes]
    with tempfile.TemporaryDirectory() as folder:
        path = write_coco(Path(folder), scenes, labels, CLASSES)
        contestants = {"ours": ours(path), "torchvision": torchvisions(path)}
        objects = {name: epoch() for name, epoch in contestants.items()}
        answers = require(float(objects["ours"] == objects["torchvision"]), 1.0, f"of {objects['ours']} objects")
        works: dict[str, Work] = dict(contestants)
        seconds = interleaved(works, rounds=options.rounds(5, 1), warmup=1)
    each = {name: [time / images for time in times] for name, times in seconds.items()}
    return [against("an image and its objects for a training step", each, "ours", "torchvision", answers=answers)]


def ours(path: Path) -> Callable[[], int]:
    """An epoch; gives the objects seen."""
    loader = TrainLoader(read_dataset(path), ModelConfig(), AugmentConfig(), batch=BATCH, workers=WORKERS)
    epochs = iter(range(1 << 30))

    def epoch() -> int:
        return sum(int(batch.gt.valid.sum()) for batch in loader.batches(next(epochs)) if batch.gt is not None)

    return epoch


def torchvisions(path: Path) -> Callable[[], int]:
    transform = GeneralizedRCNNTransform(800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    loader = DataLoader(
        Coco(str(path.parent), str(path)), BATCH, shuffle=True, num_workers=WORKERS, collate_fn=unchanged,
        persistent_workers=True,
    )  # fmt: skip

    def batches() -> Iterator[Any]:
        for rows in loader:
            yield transform([image for image, _ in rows], [target for _, target in rows])

    return lambda: sum(len(target["boxes"]) for _, targets in batches() for target in targets)


class Coco(CocoDetection):
    """The data set as torchvision's `references/detection/coco_utils` reads it."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image, rows = super().__getitem__(index)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.from_numpy(np.stack([self.coco.annToMask(row) for row in rows]))
        if torch.rand(()) < 0.5:
            pixels, masks = pixels.flip(2), masks.flip(2)
            boxes[:, [0, 2]] = pixels.shape[2] - boxes[:, [2, 0]]
        labels = torch.tensor([row["category_id"] for row in rows])
        return pixels, {"boxes": boxes, "labels": labels, "masks": masks}


def unchanged(rows: list[Any]) -> list[Any]:
    return rows


if __name__ == "__main__":
    run(compare, __doc__)
