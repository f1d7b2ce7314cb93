"""A model small enough for every test that needs a whole one: untrained, but with clear preferences."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskrcnn.categories import Category
from maskrcnn.config import ModelConfig, preset
from maskrcnn.model.build import build
from maskrcnn.weights.checkpoint import Checkpoint, save_checkpoint
from tests.scenes import CATEGORY_IDS

CATEGORIES = tuple(Category(id, name) for name, id in CATEGORY_IDS.items())


def tiny_config() -> ModelConfig:
    """R-18-FPN-tiny with a quarter of its channels, three classes and room for 20 objects."""
    config = preset("R-18-FPN-tiny")
    return replace(
        config,
        classes=len(CATEGORIES),
        backbone=replace(config.backbone, norm="bn", width=8, freeze_at=0),
        fpn=replace(config.fpn, channels=16),
        box_head=replace(config.box_head, channels=32, score_threshold=0.05, max_detections=20),
        mask_head=replace(config.mask_head, channels=16, convs=1),
    )


def write_tiny_checkpoint(path: Path) -> Path:
    """Writes a checkpoint whose scores and boxes differ clearly from each other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = build(tiny_config())
        with torch.no_grad():
            model.box_head.class_logits.weight.normal_(0, 0.1)
            model.box_head.box_deltas.weight.normal_(0, 0.1)
    provenance = {"step": 7, "metrics": {"box": {"AP": 0.25}}}
    thresholds = (0.05,) * len(CATEGORIES)  # its scores are low
    save_checkpoint(path, Checkpoint(tiny_config(), CATEGORIES, model.state_dict(), provenance, thresholds))
    return path
