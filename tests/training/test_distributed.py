"""Two gloo processes against one with the same images a step, on the stand-in model with group norm."""

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.errors import ConfigError, TrainingError
from maskrcnn.training.distributed import alone, from_first, gather, on_any, ranks, total_over
from maskrcnn.training.job import FINAL, LAST
from maskrcnn.training.log import JsonLines
from maskrcnn.training.loop import fit
from maskrcnn.training.validate import validation_loss
from maskrcnn.weights.checkpoint import read_tensors
from tests.training.stand_in import Tiny, judge_weights, make_job

EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def _in_rank(rank: int, world: int, port: int, work: Any, out: Path) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    with ranks("cpu") as among:
        work(among, out)
    # A thread of the group that outlives the interpreter aborts the process now and then.
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name]


def two_ranks(work: Any, out: Path) -> list[int | None]:
    """Runs `work(among, out)` in two processes; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_in_rank, args=(rank, 2, port, work, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def work_words(among: Any, out: Path) -> None:
    results = {
        "sum": total_over(torch.tensor([1.0, float(among.rank)]), among).tolist(),
        "any": on_any(among.rank == 1, among),
        "none": on_any(False, among),
        "gathered": gather({"rank": among.rank}, among),
        "first": from_first(f"rank {among.rank}", among),
    }
    (out / f"{among.rank}.json").write_text(json.dumps(results))


def work_train(among: Any, out: Path) -> None:
    listeners = [JsonLines(out / "log.jsonl")] if among.first else []
    job = make_job(out, among, judge=judge_weights, batch=2, accumulate=1, log_every=1, ema=0.5)
    fit(Tiny(), job, among, listeners, lambda text: None)


def work_poison(among: Any, out: Path) -> None:
    try:
        fit(Tiny(), make_job(out, among, poison=7), among, (), lambda text: None)
    except TrainingError as error:
        (out / f"{among.rank}.txt").write_text(str(error))


def work_validation(among: Any, out: Path) -> None:
    loss = validation_loss(Tiny().eval(), make_job(out, among, judge=judge_weights), among)
    (out / f"{among.rank}.json").write_text(json.dumps(loss))


def test_words_between_ranks(tmp_path: Path) -> None:
    assert two_ranks(work_words, tmp_path) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.pop("gathered") == [{"rank": 0}, {"rank": 1}]
    assert second.pop("gathered") is None
    assert first == second == {"sum": [2.0, 1.0], "any": True, "none": False, "first": "rank 0"}


def test_two_processes_train_as_one_with_their_batches_together(tmp_path: Path) -> None:
    """Steps with images without objects on one rank, or on both, are among them: every sixth image has none."""
    assert two_ranks(work_train, tmp_path) == [0, 0]
    one = tmp_path / "one"
    job = make_job(one, alone(), judge=judge_weights, batch=4, log_every=1, ema=0.5)
    fit(Tiny(), job, alone(), [JsonLines(one / "log.jsonl")], lambda text: None)
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
    among = alone()
    assert total_over(torch.tensor([2.0]), among).item() == 2.0
    assert gather("x", among) == ["x"]
    assert from_first("x", among) == "x"
    assert on_any(True, among)
    assert not on_any(False, among)


def test_half_an_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"), ranks("cpu"):
        pass
