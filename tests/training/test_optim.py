"""The learning rate by hand, weight decay by name, clipping by arithmetic."""

import math

import pytest
import torch
from torch import nn

from maskrcnn.config import Config, TrainConfig, override, preset
from maskrcnn.errors import ConfigError
from maskrcnn.training.optim import (
    COCO_IMAGES,
    build_optimizer,
    clip,
    learning_rate,
    scaled_rate,
    schedule_settings,
    set_rate,
)

CONFIG = TrainConfig(lr=0.02, warmup_steps=10, warmup_factor=0.1, milestones=(0.5, 0.75), gamma=0.1)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.002), (5, 0.011), (10, 0.02), (499, 0.02), (500, 0.002), (749, 0.002), (750, 0.0002), (999, 0.0002)],
)
def test_the_step_schedule_by_hand(step: int, rate: float) -> None:
    assert learning_rate(step, 1000, CONFIG, 16) == pytest.approx(rate)


@pytest.mark.parametrize(("images", "rate"), [(16, 0.02), (2, 0.0025), (64, 0.08)])
def test_the_rate_is_linear_in_the_images_of_a_step(images: int, rate: float) -> None:
    assert scaled_rate(CONFIG, images) == pytest.approx(rate)


def test_the_one_x_schedule_drops_at_60_and_80_thousand() -> None:
    rates = [learning_rate(step, 90_000, TrainConfig(), 16) for step in (59_999, 60_000, 79_999, 80_000)]
    assert rates == pytest.approx([0.02, 0.002, 0.002, 0.0002])


@pytest.mark.parametrize(
    ("name", "model", "images", "steps", "drops", "rate"),
    [
        ("1x", "R-50-FPN", 16, 90_000, (60_000, 80_000), 0.02),
        ("1x", "R-50-C4", 8, 180_000, (120_000, 160_000), 0.01),  # Detectron's, an image a GPU
        ("s1x", "X-101-64x4d-FPN", 8, 260_000, (200_000, 240_000), 0.01),
        ("2x", "R-50-FPN", 16, 180_000, (120_000, 160_000), 0.02),
        ("3x", "R-101-FPN", 16, 270_000, (210_000, 250_000), 0.02),
        ("paper", "R-101-FPN", 16, 160_000, (120_000,), 0.02),
        ("paper", "X-101-64x4d-FPN", 8, 160_000, (120_000,), 0.01),
    ],
)
def test_named_schedules_are_their_steps_on_coco(name, model, images, steps, drops, rate) -> None:
    """As Detectron's zoo and section 3.1 of the paper state them, for the images that a step has there."""
    config = override(Config(), schedule_settings(name, preset(model))).train
    assert math.ceil(config.epochs * COCO_IMAGES / images) == steps
    for number, drop in enumerate(drops):
        around = [learning_rate(step, steps, config, images) for step in (drop - 2, drop + 2)]
        assert around == pytest.approx([rate * 0.1**number, rate * 0.1 ** (number + 1)])


def test_keypoints_train_as_long_as_the_papers() -> None:
    config = override(Config(), ["model.keypoint_head.enabled=true"])
    assert schedule_settings("paper", config.model) == schedule_settings("1x", config.model)


def test_a_schedule_that_is_none_is_refused_and_a_shape_is_only_that() -> None:
    assert schedule_settings("cosine", preset("R-50-FPN")) == ["train.schedule=cosine"]
    with pytest.raises(ConfigError, match="'4x'; there are 1x, s1x, 2x, 3x, paper"):
        schedule_settings("4x", preset("R-50-FPN"))


def test_warm_up_takes_at_most_a_tenth_of_the_run() -> None:
    for total, warmup in ((1000, 10), (50, 5), (9, 0)):
        below = [learning_rate(step, total, CONFIG, 16) < 0.02 for step in range(total // 2)]
        assert below == [step < warmup for step in range(total // 2)]
    assert learning_rate(0, 1, CONFIG, 16) == pytest.approx(0.02)


def test_cosine_ends_near_zero_and_is_half_in_the_middle() -> None:
    config = TrainConfig(lr=0.02, warmup_steps=0, schedule="cosine")
    assert learning_rate(500, 1000, config, 16) == pytest.approx(0.01)
    assert 0 < learning_rate(999, 1000, config, 16) < 1e-7


def make_model() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.BatchNorm2d(2), nn.Linear(2, 2))
    model[3].requires_grad_(False)
    return model


def test_norms_and_biases_are_not_decayed_and_frozen_weights_not_touched() -> None:
    model = make_model()
    optimizer = build_optimizer(model, TrainConfig(weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert found == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.0,
        "2.bias": 0.0,
        "3.weight": None,
        "3.bias": None,
    }


def test_one_update_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, TrainConfig(momentum=0.5, weight_decay=0.1))
    set_rate(optimizer, 0.5)
    for _ in range(2):
        model.weight.grad = torch.tensor([[1.0]])
        optimizer.step()
    first = 1 + 0.1 * 2.0  # V = g + decay * w
    after = 2.0 - 0.5 * first
    second = 0.5 * first + 1 + 0.1 * after
    assert model.weight.item() == pytest.approx(after - 0.5 * second)


def test_clipping_goes_by_the_norm_of_the_whole_gradient() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for parameter, value in zip(model.parameters(), (3.0, 0.0, 4.0, 0.0), strict=True):
        parameter.grad = torch.full_like(parameter, value)
    assert clip(model, 0.0).item() == 5.0
    assert [p.grad.item() for p in model.parameters()] == [3.0, 0.0, 4.0, 0.0]
    assert clip(model, 2.5).item() == 5.0
    assert [p.grad.item() for p in model.parameters()] == pytest.approx([1.5, 0.0, 2.0, 0.0])
