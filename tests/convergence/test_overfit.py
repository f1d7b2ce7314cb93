"""The whole system can learn: eight drawn images by heart, boxes and masks."""

from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.data.drawn import draw_dataset
from maskrcnn.training.train import train

SETTINGS = (
    "model.backbone.norm=bn",
    "model.fpn.norm=bn",
    "model.mask_head.norm=bn",
    "train.batch=4",
    "train.workers=0",
    "train.optimizer=adamw",
    "train.lr=0.012",
    "train.schedule=cosine",
    "train.ema=0.98",
    "train.warmup_steps=20",
    "train.evaluate_every=0",
    "train.validation_loss=false",
    "train.augment.horizontal_flip=0.0",
    "train.checkpoint_every=0",
    "train.log_every=50",
)


@pytest.mark.slow
def test_eight_images_by_heart(tmp_path: Path) -> None:
    draw_dataset(tmp_path, train=8, val=1, seed=0, keypoints=False)
    json_path = tmp_path / "train.json"
    final = train(
        json_path,
        val=json_path,
        model="R-18-FPN-tiny",
        recipe="paper",
        out=tmp_path / "run",
        epochs=300,
        overrides=SETTINGS,
    )
    metrics = maskrcnn.evaluate(final, json_path, workers=0)
    assert metrics["box"]["AP"] > 0.9
    assert metrics["mask"]["AP"] > 0.9
