"""Two gloo processes against one with the same images a step, on the stand-in model with group norm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.errors import ConfigError, TrainingError
from maskrcnn.training.distributed import Ranks, join_ranks
from maskrcnn.training.loop import fit, validation_loss
from maskrcnn.training.run import FINAL, LAST
from maskrcnn.weights.checkpoint import read_tensors
from tests.training.processes import two_ranks
from tests.training.stand_in import judge_weights, make_task

EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def work_words(ranks: Ranks, out: Path) -> None:
    results = {
        "sum": ranks.total(torch.tensor([1.0, float(ranks.rank)])).tolist(),
        "any": ranks.any(ranks.rank == 1),
        "none": ranks.any(False),
        "gathered": ranks.gather({"rank": ranks.rank}),
        "first": ranks.from_first(f"rank {ranks.rank}"),
    }
    (out / f"{ranks.rank}.json").write_text(json.dumps(results))


def work_train(ranks: Ranks, out: Path) -> None:
    fit(make_task(out, ranks, judge=judge_weights, batch=2, accumulate=1, log_every=1, ema=0.5))


def work_poison(ranks: Ranks, out: Path) -> None:
    try:
        fit(make_task(out, ranks, poison=7))
    except TrainingError as error:
        (out / f"{ranks.rank}.txt").write_text(str(error))


def work_validation(ranks: Ranks, out: Path) -> None:
    loss = validation_loss(make_task(out, ranks, judge=judge_weights).eval())
    (out / f"{ranks.rank}.json").write_text(json.dumps(loss))


def test_words_between_ranks(tmp_path: Path) -> None:
    assert two_ranks(work_words, tmp_path) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.pop("gathered") == [{"rank": 0}, {"rank": 1}]
    assert second.pop("gathered") is None
    assert first == second == {"sum": [2.0, 1.0], "any": True, "none": False, "first": "rank 0"}


def test_two_processes_train_as_one_with_their_batches_together(tmp_path: Path) -> None:
    """Steps with images without objects on one rank, or on both, are ranks them: every sixth image has none."""
    assert two_ranks(work_train, tmp_path) == [0, 0]
    one = tmp_path / "one"
    fit(make_task(one, judge=judge_weights, batch=4, log_every=1, ema=0.5))
    for name in (LAST, FINAL):
        mine, theirs = (read_tensors(folder / name, "tiny", 1)[0] for folder in (one, tmp_path))
        for tensor in mine:
            torch.testing.assert_close(theirs[tensor], mine[tensor], **EXACT)
    ours, both = (steps_of(folder / "log.jsonl") for folder in (one, tmp_path))
    assert len(ours) == len(both) > 10
    for mine, theirs in zip(ours, both, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-5)
        assert theirs["losses"] == pytest.approx(mine["losses"], abs=1e-5)


def steps_of(log: Path) -> list[dict[str, Any]]:
    return [record for line in log.read_text().splitlines() if (record := json.loads(line))["kind"] == "step"]


def test_a_loss_that_is_not_finite_on_one_rank_ends_both(tmp_path: Path) -> None:
    assert two_ranks(work_poison, tmp_path) == [0, 0]
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert 7 in json.loads((tmp_path / "not_finite.json").read_text())["image_ids"]


def test_the_validation_loss_is_the_same_on_all_ranks(tmp_path: Path) -> None:
    assert two_ranks(work_validation, tmp_path) == [0, 0]
    values = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert values[0] == values[1]
    assert values[0] > 0


def test_alone_every_word_is_the_identity() -> None:
    ranks = Ranks()
    assert ranks.total(torch.tensor([2.0])).item() == 2.0
    assert ranks.mean({"loss": 0.5}) == {"loss": 0.5}
    assert ranks.gather("x") == ["x"]
    assert ranks.from_first("x") == "x"
    assert ranks.any(True)
    assert not ranks.any(False)


def test_half_an_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"), join_ranks("cpu"):
        pass
