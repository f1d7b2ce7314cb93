"""SGD with momentum (section 3.1: 0.9, weight decay 1e-4) or AdamW, the learning rate by step, and clipping.

Nothing here has to be saved: the rate follows from the step and the length of the run.
"""

import math

import torch
from torch import Tensor, nn

from ..config import TrainConfig

REFERENCE_IMAGES = 16  # what `TrainConfig.lr` is stated for


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over what is trainable. Norms and biases, which are all vectors, get no weight decay, as in Detectron."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def scaled_rate(config: TrainConfig, images_per_step: int) -> float:
    """The rate after warm-up for `images_per_step` = batch x accumulate x ranks (linear scaling, arXiv 1706.02677)."""
    return config.lr * images_per_step / REFERENCE_IMAGES


def learning_rate(step: int, total: int, config: TrainConfig, images_per_step: int) -> float:
    """The rate of optimiser step `step` of `total`, counted from 0."""
    return scaled_rate(config, images_per_step) * _warmup(step, total, config) * _decay(step, total, config)


def warmup_steps(total: int, config: TrainConfig) -> int:
    """Length of the warm-up: as configured, at most a tenth of the run."""
    return min(config.warmup_steps, total // 10)


def _warmup(step: int, total: int, config: TrainConfig) -> float:
    steps = warmup_steps(total, config)
    if step >= steps:
        return 1.0
    return config.warmup_factor + (1 - config.warmup_factor) * step / steps


def _decay(step: int, total: int, config: TrainConfig) -> float:
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))
    return config.gamma ** sum(step >= fraction * total for fraction in config.milestones)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(model: nn.Module, limit: float) -> Tensor:
    """Scales the whole gradient down to norm `limit` (0: leaves it) and returns the norm before, on its device."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
