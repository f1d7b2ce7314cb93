"""One small data set and one small model for all tests that train a real network."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenes import NONE, SMALL, TWO_APART, write_coco
from tests.training.small import train_small


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images to train on and one to evaluate on. Tests do not write into this folder."""
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder, {"a.png": TWO_APART, "b.png": NONE, "c.png": SMALL, "d.png": TWO_APART})
    write_coco(folder, {"v.png": TWO_APART}, "val.json")
    return folder


@pytest.fixture
def small_run(data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains the small model on `data` in a folder of the test; takes settings and arguments of `train`."""
    return lambda *settings, **arguments: train_small(data, tmp_path / "run", *settings, **arguments)
