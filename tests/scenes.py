"""Tiny scenes whose answers are known by hand, and the COCO files that describe them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

GROUND = (40, 44, 52)
COLOURS = {"brick": (200, 60, 40), "leaf": (60, 180, 75), "wave": (50, 90, 210)}
CATEGORY_IDS = {"brick": 3, "leaf": 7, "wave": 20}  # gaps, as real data has


class Thing(NamedTuple):
    """A filled rectangle: its kind, and its box (x1, y1, x2, y2) in whole pixels."""

    kind: str
    box: tuple[int, int, int, int]


class Scene(NamedTuple):
    """Rectangles on a plain ground, later ones in front."""

    size: tuple[int, int]  # (height, width)
    things: tuple[Thing, ...]

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [H W 3]."""
        image = np.empty((*self.size, 3), np.uint8)
        image[:] = GROUND
        for thing in self.things:
            x1, y1, x2, y2 = thing.box
            image[y1:y2, x1:x2] = COLOURS[thing.kind]
        return image


TWO_APART = Scene((48, 64), (Thing("brick", (4, 8, 24, 20)), Thing("leaf", (36, 16, 60, 44))))
NONE = Scene((48, 64), ())
SMALL = Scene((32, 32), (Thing("wave", (10, 12, 22, 20)),))
WIDE = Scene((40, 120), (Thing("wave", (5, 5, 115, 35)),))


def write_coco(folder: Path, scenes: dict[str, Scene], name: str = "train.json") -> Path:
    """Writes the scenes, by file name, into `folder`/images and their annotations into `folder`/`name`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file, scene in scenes.items():
        height, width = scene.size
        images.append({"id": len(images) + 1, "file_name": file, "height": height, "width": width})
        Image.fromarray(scene.pixels).save(folder / "images" / file)
        annotations += [
            {"image_id": len(images), "id": len(annotations) + i + 1, **_annotation(thing)}
            for i, thing in enumerate(scene.things)
        ]
    categories = [{"id": id, "name": kind} for kind, id in CATEGORY_IDS.items()]
    path = folder / name
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _annotation(thing: Thing) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    return {
        "category_id": CATEGORY_IDS[thing.kind],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
    }
