"""The public function on a real, very small model: a folder of files, a second start, two processes as one."""

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import maskrcnn
from maskrcnn.cli.options import argument_help
from maskrcnn.data.drawn import FIGURE, FLIP_PAIRS, KEYPOINTS, draw_dataset
from maskrcnn.errors import ConfigError
from maskrcnn.training.distributed import Ranks
from maskrcnn.training.loop import divide
from maskrcnn.training.task import Task, build_model
from maskrcnn.weights.checkpoint import load_checkpoint
from tests.training.processes import two_ranks
from tests.training.small import SMALLEST, make_run, train_small


def test_every_argument_is_explained_in_one_line() -> None:
    parameters = inspect.signature(maskrcnn.train).parameters
    assert list(argument_help(maskrcnn.train)) == list(parameters)


def test_a_run_leaves_what_is_needed_to_repeat_it(
    small_run: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = small_run()
    out = tmp_path / "run"
    assert final == out / "model.safetensors"
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.toml", "run.json", "log.jsonl", "metrics.json", "report.html"}
    assert names >= {"last.safetensors", "best.safetensors", "state.safetensors", "model.safetensors"}
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == [1, 2, 3, 4]
    assert len([record for record in records if record["kind"] == "evaluation"]) == 2
    assert json.loads((out / "run.json").read_text())["identity"]["data"]["train"]
    checkpoint = load_checkpoint(final)
    assert [category.name for category in checkpoint.categories] == ["brick", "leaf", "wave"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["box"]["AP"] <= 1
    assert 0 <= metrics["mask"]["AP"] <= 1
    least = {row["name"]: row["operating"]["threshold"] for row in metrics["per_class"]}
    right = metrics["operating"]["F1"] > 0  # so there is a best score
    assert checkpoint.thresholds == (tuple(least[c.name] for c in checkpoint.categories) if right else ())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert [title for title in ("Loss", "Learning rate", "Kinds of error") if title not in page] == []
    capsys.readouterr()
    assert small_run() == final
    assert "finished run of 4 steps: nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"train\.momentum"):
        small_run("train.momentum=0.5")
    again = maskrcnn.evaluate(final, data, precision="fp32", workers=0, out=tmp_path / "again")
    assert again["box"] == pytest.approx(metrics["box"])
    written = json.loads((tmp_path / "again/metrics.json").read_text())
    assert (written["objects"], written["operating"]) == (2, again["operating"])
    assert again["operating"]["chosen_by"] == ("training" if right else "default")


def test_keypoints_are_trained_and_measured(tmp_path: Path) -> None:
    draw_dataset(tmp_path, train=4, val=2, seed=0, keypoints=True)
    head = ("model.keypoint_head.convs=1", "model.keypoint_head.channels=16")
    final = train_small(tmp_path, tmp_path / "run", *head, keypoints=True, masks=False)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [record["losses"] for record in records if record["kind"] == "step"]
    assert not any("mask" in loss for loss in losses)
    assert 5 < max(loss["keypoint"] for loss in losses) < 11  # log 56^2 = 8.05 where every place is as likely
    checkpoint = load_checkpoint(final)
    assert checkpoint.categories[FIGURE].keypoints == KEYPOINTS
    assert checkpoint.categories[FIGURE].flip_pairs == FLIP_PAIRS
    assert checkpoint.config.keypoint_head.num_keypoints == len(KEYPOINTS)
    metrics = maskrcnn.evaluate(final, tmp_path, precision="fp32", workers=0)
    assert metrics["keypoint"] == pytest.approx(json.loads((tmp_path / "run" / "metrics.json").read_text())["keypoint"])
    predictor = maskrcnn.load(final)
    (result,) = predictor.predict(tmp_path / "images" / "val-00001.png", score_threshold=0.0, max_detections=20)
    assert result.keypoints is not None
    figures = result.labels == FIGURE + 1
    assert (result.keypoints[figures][..., 2] > 0).all()
    assert (result.keypoints[~figures] == 0).all()


def test_without_masks_it_is_faster_rcnn_and_has_box_ap_alone(small_run: Callable[..., Path], data: Path) -> None:
    """Table 3: Faster R-CNN with RoIAlign; its other row is the box AP of the model with masks, above."""
    final = small_run(masks=False, epochs=1)
    checkpoint = load_checkpoint(final)
    assert not any(name.startswith("mask_head") for name in checkpoint.state)
    assert checkpoint.config.pool.operator == "roi_align"
    metrics = maskrcnn.evaluate(final, data, precision="fp32", workers=0)
    assert {"box", "mask", "keypoint"} & metrics.keys() == {"box"}


def first_losses(ranks: Ranks, data: Path, batch: int, norm: str) -> dict[str, float]:
    settings = (*SMALLEST, f"train.batch={batch}", f"model.backbone.norm={norm}")
    run, _ = make_run(data, *settings, ranks=ranks, out=data / "never")
    task = Task(run, build_model(run))
    inputs, _ = next(task.batches(0))
    return {name: value.item() for name, value in divide(task(*inputs), run).items()}


def work_losses(ranks: Ranks, out: Path, data: Path) -> None:
    losses = {norm: first_losses(ranks, data, 2, norm) for norm in ("gn", "frozen_bn")}
    (out / f"{ranks.rank}.json").write_text(json.dumps(losses))


def test_two_processes_give_the_losses_of_one_with_the_same_images(data: Path, tmp_path: Path) -> None:
    assert two_ranks(partial(work_losses, data=data), tmp_path) == [0, 0]
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for norm in ("gn", "frozen_bn"):
        whole = first_losses(Ranks(), data, 4, norm)
        assert whole.keys() == both[0][norm].keys()
        for name, value in whole.items():
            mean = (both[0][norm][name] + both[1][norm][name]) / 2
            assert mean == pytest.approx(value, abs=1e-5), name
        assert torch.tensor(list(whole.values())).isfinite().all()
