"""How large a batch is chosen to be, from times and memory known by hand; and once measured for real."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.config import read_toml
from maskrcnn.errors import ConfigError
from maskrcnn.training.batch import Trial, measured_batch
from maskrcnn.training.run import Run
from maskrcnn.training.train import train
from maskrcnn.weights.checkpoint import load_checkpoint
from tests.training.small import SMALLEST, train_small
from tests.training.stand_in import make_run


class Machine:
    """Knows seconds per image and the share of memory by batch; what is not known does not fit."""

    def __init__(self, known: dict[int, tuple[float, float]]) -> None:
        self.known, self.tried = known, []

    def __call__(self, run: Run) -> Trial | None:
        size = run.config.train.batch
        self.tried.append(size)
        return Trial(*self.known[size]) if size in self.known else None


@pytest.mark.parametrize(
    ("first", "known", "chosen", "tried"),
    [
        (2, {2: (1.0, 0.01), 4: (0.8, 0.02), 8: (0.78, 0.04), 16: (0.9, 0.08)}, 4, [2, 4, 8, 16]),  # 8 is hardly faster
        (2, {2: (1.0, 0.1), 4: (0.8, 0.3), 8: (0.5, 0.7)}, 8, [2, 4, 8]),  # 16 cannot fit, so it is not tried
        (4, {4: (1.0, 0.3)}, 4, [4, 8]),  # 8 runs out of memory
        (4, {4: (0.5, 0.9), 2: (0.6, 0.5)}, 2, [4, 2]),  # 4 leaves no room for larger images
        (8, {2: (0.6, 0.3), 8: (0.5, 0.9)}, 2, [8, 4, 2]),  # what did not fit is not tried again
        (4, {1: (2.0, 0.95)}, 1, [4, 2, 1]),  # there is nothing smaller
        (99, {16: (1.0, 0.1)}, 16, [16]),  # no more than are tried, and than there are images
    ],
)
def test_the_smallest_of_the_fastest_that_fit(tmp_path: Path, first, known, chosen, tried) -> None:
    machine = Machine(known)
    assert measured_batch(make_run(tmp_path, batch=first), machine)[0] == chosen
    assert machine.tried == tried


def test_it_is_measured_once_and_kept(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    settings = [setting for setting in SMALLEST if not setting.startswith("train.batch")]
    run: dict[str, Any] = {"model": "R-18-FPN-tiny", "recipe": "paper", "out": tmp_path, "overrides": settings}
    train(data, batch="auto", epochs=1, **run)
    batch = read_toml(tmp_path / "config.toml").train.batch
    assert f"  batch: train.batch={batch} (measured, seconds an image: 2: " in capsys.readouterr().out
    monkeypatch.setattr("maskrcnn.training.batch._trial", lambda run: pytest.fail("measured again"))
    train(data, batch="auto", epochs=2, **run)
    train(data, epochs=2, **run)
    assert read_toml(tmp_path / "config.toml").train.batch == batch


def test_other_words_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch is a number of images, or auto; it got 'large'"):
        train(data, batch="large", out=tmp_path)
    with pytest.raises(ConfigError, match="training in stages needs a number"):
        train(data, batch="auto", stages="rpn", out=tmp_path)


def test_a_deterministic_run_is_bit_by_bit_the_one_that_a_cpu_makes_anyway(data: Path, tmp_path: Path) -> None:
    class Watch:
        def on_step(self, record: Any) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    seen: list[bool] = []
    plain = load_checkpoint(train_small(data, tmp_path / "plain", epochs=1)).state
    exact = load_checkpoint(
        train_small(data, tmp_path / "exact", epochs=1, deterministic=True, callbacks=[Watch()])
    ).state
    assert seen == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(plain[name], exact[name]) for name in plain)
