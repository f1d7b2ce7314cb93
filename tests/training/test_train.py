"""The public function on a real, very small model: a folder of files, a second start, two processes as one."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import maskrcnn
from maskrcnn.data.drawn import FIGURE, FLIP_PAIRS, KEYPOINTS, draw_dataset
from maskrcnn.errors import ConfigError
from maskrcnn.training.distributed import alone
from maskrcnn.training.loop import begin, divide, train
from maskrcnn.training.setup import build_model, make_job, plan
from maskrcnn.training.validate import score_of
from maskrcnn.weights.checkpoint import load_checkpoint
from tests.scenes import NONE, SMALL, TWO_APART, write_coco
from tests.training.test_distributed import two_ranks

SMALLEST = (
    "model.backbone.width=8",
    "model.backbone.blocks=[1,1,1,1]",
    "model.backbone.norm=gn",
    "model.fpn.channels=16",
    "model.box_head.channels=32",
    "model.box_head.samples=16",
    "model.mask_head.channels=16",
    "model.mask_head.convs=1",
    "model.rpn.pre_nms_train=100",
    "train.workers=0",
    "train.batch=2",
    "train.log_every=1",
    "train.precision=fp32",
    "train.augment.crop=64",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    scenes = {"a.png": TWO_APART, "b.png": NONE, "c.png": SMALL, "d.png": TWO_APART}
    write_coco(tmp_path, scenes)
    write_coco(tmp_path, {"v.png": TWO_APART}, "val.json")
    return tmp_path


def run(data: Path, *overrides: str, **named: Any) -> Path:
    return train(data, model="R-18-FPN-tiny", out=data / "run", epochs=2, overrides=(*SMALLEST, *overrides), **named)


def test_a_run_leaves_what_is_needed_to_repeat_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = run(data)
    out = data / "run"
    assert final == out / "model.safetensors"
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.toml", "run.json", "log.jsonl", "metrics.json"}
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
    capsys.readouterr()
    assert run(data) == final
    assert "finished run of 4 steps: nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"train\.momentum"):
        run(data, "train.momentum=0.5")
    again = maskrcnn.evaluate(final, data, precision="fp32", workers=0, out=data / "again.json")
    assert again["box"] == pytest.approx(metrics["box"])
    assert json.loads((data / "again.json").read_text())["objects"] == 2


def test_keypoints_are_trained_and_measured(tmp_path: Path) -> None:
    draw_dataset(tmp_path, train=4, val=2, seed=0, keypoints=True)
    head = ("model.keypoint_head.convs=1", "model.keypoint_head.channels=16")
    final = run(tmp_path, *head, keypoints=True, masks=False)
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


def test_the_best_weights_are_those_of_the_finest_branch() -> None:
    every = {"box": {"AP": 0.5}, "mask": {"AP": 0.4}, "keypoint": {"AP": 0.3}, "notes": []}
    assert score_of(every) == 0.3
    assert score_of({"box": {"AP": 0.5}, "mask": {"AP": 0.4}}) == 0.4
    assert score_of({"box": {"AP": 0.5}}) == 0.5
    assert score_of({"keypoint": {"AP": None}}) == -1
    assert score_of({}) == -1
    assert score_of({"proposals": {"AR": 0.5}}) == 0.5


def test_without_masks_it_is_faster_rcnn_and_has_box_ap_alone(data: Path) -> None:
    """Table 3: Faster R-CNN with RoIAlign; its other row is the box AP of the model with masks, above."""
    final = run(data, masks=False)
    checkpoint = load_checkpoint(final)
    assert not any(name.startswith("mask_head") for name in checkpoint.state)
    assert checkpoint.config.pool.operator == "roi_align"
    metrics = maskrcnn.evaluate(final, data, precision="fp32", workers=0)
    assert {"box", "mask", "keypoint"} & metrics.keys() == {"box"}


def _first_losses(among: Any, data: Path, batch: int, norm: str) -> dict[str, float]:
    made = plan(
        data,
        model="R-18-FPN-tiny",
        weights=None,
        out=data / "never",
        named={"train.batch": batch},
        overrides=[*(text for text in SMALLEST if not text.startswith("train.batch")), f"model.backbone.norm={norm}"],
        config=None,
        reading={"val": None, "images": None, "strict": False, "keypoints": False},
        among=among,
        say=lambda text: None,
    )
    model, job = build_model(made, among, lambda text: None), make_job(made, among)
    begin(model, job, among)
    images, gt, _ = next(iter(job.epoch(0, 0)))
    return {name: value.item() for name, value in divide(model.loss(images, gt), among).items()}  # type: ignore[operator]


def work_losses(among: Any, data: Path, norm: str) -> None:
    (data / f"{among.rank}.json").write_text(json.dumps(_first_losses(among, data, 2, norm)))


@pytest.mark.parametrize("norm", ["gn", "frozen_bn"])
def test_two_processes_give_the_losses_of_one_with_the_same_images(data: Path, norm: str) -> None:
    assert two_ranks(partial(work_losses, norm=norm), data) == [0, 0]
    ranks = [json.loads((data / f"{rank}.json").read_text()) for rank in range(2)]
    whole = _first_losses(alone(), data, 4, norm)
    assert whole.keys() == ranks[0].keys()
    for name, value in whole.items():
        mean = (ranks[0][name] + ranks[1][name]) / 2
        assert mean == pytest.approx(value, abs=1e-5), name
    assert torch.tensor(list(whole.values())).isfinite().all()
