"""SGD with momentum (section 3.1: 0.9, weight decay 1e-4) or AdamW, the learning rate by step, schedules, clipping.

Nothing here has to be saved: the rate follows from the step and the length of the run.
"""

import math

import torch
from torch import Tensor, nn

from ..config import ModelConfig, TrainConfig
from ..errors import ConfigError

REFERENCE_IMAGES = 16  # what `TrainConfig.lr` is stated for
COCO_IMAGES = 118_287  # of train2017, which the schedules below were made for

# Steps of 16 images, and the steps after which the rate drops to a tenth (section 3.1, and Detectron's MODEL_ZOO).
SCHEDULES = {
    "1x": (90_000, (60_000, 80_000)),
    "s1x": (130_000, (100_000, 120_000)),
    "2x": (180_000, (120_000, 160_000)),
    "3x": (270_000, (210_000, 250_000)),
    "paper": (160_000, (120_000,)),
}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of all trainable weights. Norms and biases, all vectors, get no weight decay, as in Detectron."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def schedule_settings(name: str, model: ModelConfig) -> list[str]:
    """The settings behind the name of a schedule: as many passes over the images as it makes over COCO's.

    "step" and "cosine" set the shape only. In the paper, keypoints take 90k steps; a ResNeXt takes as many steps as a
    ResNet, but of 8 images, so half the passes (its rate, 0.01, is `lr` for 16 images). Raises `ConfigError` for an
    unknown name.
    """
    if name in ("step", "cosine"):
        return [f"train.schedule={name}"]
    if name not in SCHEDULES:
        raise ConfigError(f"there is no schedule {name!r}; there are {', '.join(SCHEDULES)}, step and cosine")
    steps, drops = SCHEDULES["1x" if name == "paper" and model.keypoint_head.enabled else name]
    images = REFERENCE_IMAGES // 2 if name == "paper" and model.backbone.groups > 1 else REFERENCE_IMAGES
    epochs = math.floor(1e5 * steps * images / COCO_IMAGES) / 1e5  # down: on COCO that rounds up to `steps` again
    milestones = [drop / steps for drop in drops]
    return ["train.schedule=step", f"train.epochs={epochs}", f"train.milestones={milestones}", "train.gamma=0.1"]


def scaled_rate(config: TrainConfig, images_per_step: int) -> float:
    """The rate after warm-up for `images_per_step` = batch x accumulate x ranks (linear scaling, arXiv 1706.02677)."""
    return config.lr * images_per_step / REFERENCE_IMAGES


def learning_rate(step: int, total: int, config: TrainConfig, images_per_step: int) -> float:
    """The rate of optimiser step `step` of `total`, counted from 0. The warm-up is at most a tenth of the run."""
    warmup, steps = 1.0, min(config.warmup_steps, total // 10)
    if step < steps:
        warmup = config.warmup_factor + (1 - config.warmup_factor) * step / steps
    if config.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))
    else:
        decay = config.gamma ** sum(step >= fraction * total for fraction in config.milestones)
    return scaled_rate(config, images_per_step) * warmup * decay


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(model: nn.Module, limit: float) -> Tensor:
    """Scales the whole gradient down to the norm `limit` (0: no limit); returns the norm before that, on its device."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
