"""Goldens: what torchvision and Detectron2 answer with drawn weights on drawn images, and how to ask our model."""

import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.weights.checkpoint import Checkpoint
from maskrcnn.weights.interop.origin import Contents
from maskrcnn.weights.read import recognise, to_whole
from tests.golden.drawn_weights import checkpoint as draw

FOLDER = Path(__file__).parent
ALL = os.environ.get("MASKRCNN_GOLDENS") == "all"
RARELY = pytest.mark.skipif(not ALL, reason="make goldens runs all goldens")


def cases(*, train: bool, quick: set[str]) -> list[object]:
    """Every golden's (model, image), those not among `quick` marked."""
    found = []
    for path in sorted(FOLDER.glob("*.npz")):
        model, image = path.stem.split("-shapes-")
        if model.endswith("-train") == train:
            marks = [] if path.stem in quick else [RARELY]
            found.append(pytest.param(model.removesuffix("-train"), f"shapes-{image}", id=path.stem, marks=marks))
    return found


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


@lru_cache(maxsize=1)
def checkpoint(model: str, settings: tuple[str, ...] = ()) -> Checkpoint:
    """The checkpoint of drawn weights, as if read from the framework's own file.

    torchvision's answers were computed with an epsilon that its released R-50 has not.
    """
    if model.startswith("torchvision"):
        settings = ("backbone.norm_eps=1e-5", *settings)
    shapes = json.loads((FOLDER / f"{model}.keys.json").read_text())
    drawn = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in draw(shapes).items()}
    return to_whole(recognise(Contents(drawn, {}), model), settings)


def image(name: str) -> Path:
    return FOLDER / "images" / f"{name}.png"


def labels_of(model: str, found: Checkpoint, ids: np.ndarray) -> np.ndarray:
    """Category ids as the framework numbers its labels: torchvision by id, Detectron2 from 0 without gaps."""
    if model.startswith("torchvision"):
        return ids
    place = {category.id: index for index, category in enumerate(found.categories)}
    return np.array([place[int(number)] for number in ids], dtype=np.int64)


def close(a: np.ndarray, b: np.ndarray) -> float:
    """The norm of the difference, relative to the norm of `b`."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))
