"""Drawn images and objects for the comparisons, and the COCO files that describe them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn.ops.rle import counts_from_bitmap


def ellipses(
    rng: np.random.Generator, size: tuple[int, int], count: int, radii: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image, uint8 [H W 3], and bitmaps, bool [n H W], of ellipses inside it with half axes within `radii`."""
    height, width = size
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    bitmaps = []
    for _ in range(count):
        a, b = rng.uniform(*radii, size=2)
        cy, cx = rng.uniform(a, height - a), rng.uniform(b, width - b)
        bitmap = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1
        if bitmap.any():
            image[bitmap] = rng.integers(80, 255, 3)
            bitmaps.append(bitmap)
    return image, np.array(bitmaps)


def write_coco(
    folder: Path, scenes: list[tuple[np.ndarray, np.ndarray]], labels: list[np.ndarray], num_classes: int
) -> Path:
    """Writes images and bitmaps as a COCO data set and returns its json. `labels` count from 0, category ids from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, ((image, bitmaps), classes) in enumerate(zip(scenes, labels, strict=True), 1):
        Image.fromarray(image).save(folder / f"{number}.png", compress_level=1)
        height, width = image.shape[:2]
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for bitmap, label in zip(bitmaps, classes, strict=True):
            x1, y1, x2, y2 = box_of(bitmap).tolist()
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(bitmap.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": counts_from_bitmap(bitmap).tolist()},
            })  # fmt: skip
    categories = [{"id": k + 1, "name": f"class {k + 1}"} for k in range(num_classes)]
    path = folder / "data.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def box_of(bitmap: np.ndarray) -> np.ndarray:
    """The box around the pixels that are set, float64 [4], xyxy."""
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
