"""The same drawn images in 8-bit RGB, 16 bits, floats and 5 channels teach a model the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskrcnn
from maskrcnn.data.drawn import draw_dataset
from maskrcnn.training.train import train
from tests.convergence.test_overfit import SETTINGS

MAY_LOSE = 0.03  # AP, of a twin


def deep(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """12 bits above a pedestal, with a hot pixel."""
    values = (200 + rgb.astype(np.uint16) * 15) + rng.integers(0, 15, rgb.shape).astype(np.uint16)
    values[rng.integers(len(rgb)), rng.integers(len(rgb))] = 65535
    return values


def five(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGB, and two mixtures of it."""
    mixed = np.stack([rgb.mean(axis=2), 255 - rgb.max(axis=2)], axis=2)
    return np.concatenate([rgb, mixed.astype(np.uint8)], axis=2)


TWINS = {
    "8 bits": lambda rgb, rng: rgb,
    "16 bits": deep,
    "floats": lambda rgb, rng: (rgb / np.float32(255) - np.float32(0.5)).astype(np.float32),
    "5 channels": five,
    "5 channels of 16 bits": lambda rgb, rng: deep(five(rgb, rng), rng),
}


def average_precision(kind: str, folder: Path, *, images: int = 4, epochs: int = 150) -> dict[str, float]:
    """Box and mask AP of a model that learned a few images by heart, as .npy of the kind."""
    draw_dataset(folder, train=images, val=1, seed=0, keypoints=False)
    path = folder / "train.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        rgb = np.asarray(Image.open(folder / "images" / image["file_name"]))
        image["file_name"] = image["file_name"].replace(".png", ".npy")
        np.save(folder / "images" / image["file_name"], TWINS[kind](rgb, np.random.default_rng(image["id"])))
    path.write_text(json.dumps(content))
    settings = ("model.input.min_size=0", "train.precision=fp32", *SETTINGS)
    run = {"model": "R-18-FPN-tiny", "epochs": epochs, "recipe": "paper", "overrides": settings}
    final = train(path, val=path, out=folder / "run", **run)
    metrics = maskrcnn.evaluate(final, path, workers=0)
    return {task: metrics[task]["AP"] for task in ("box", "mask")}


@pytest.mark.slow
def test_deep_images_and_many_channels_teach_as_much_as_their_twin(tmp_path: Path) -> None:
    found = {kind: average_precision(kind, tmp_path / kind.replace(" ", "-")) for kind in TWINS}
    for scores in found.values():
        for task, score in scores.items():
            assert score > found["8 bits"][task] - MAY_LOSE, found
