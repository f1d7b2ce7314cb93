"""How a new run reads pixels: as many channels as the images have, their range, mean and deviation."""

from collections.abc import Collection
from dataclasses import replace

from ..config import Config
from ..data.dataset import Dataset
from ..data.pixels import measure_pixels, survey
from ..weights.checkpoint import Checkpoint

_SPREAD = 57.63  # the mean of ImageNet's deviations, for which models of 8-bit RGB are made


def settle_pixels(base: Config, begun: Config, asked: Collection[str], train: Dataset) -> tuple[Config, str]:
    """`base` with the settings of its input that follow from the images, and a line about them. Nothing changes for
    8-bit RGB and grey.

    `begun` is `base` with the settings that the user chose, whose names are in `asked`. They are laid over it again.
    """
    own = base.model.input
    found = survey(train, begun.train.seed)
    channels = begun.model.input.channels if "model.input.channels" in asked else found.channels
    changed, words = replace(own, range=()), ""
    if not channels == own.channels == 3 or found.deep:
        measured = measure_pixels(train, channels, begun.train.seed)
        if measured is None:
            return base, ""
        like = sum(own.std) / len(own.std) / _SPREAD  # weights that expect pixels undivided get them so
        mean, std = measured.mean, tuple(round(max(like * side, 1e-3), 4) for side in measured.std)
        if own.channel_order == "bgr":
            mean, std = mean[::-1], std[::-1]
        scaled = "8 bits as they are"
        if measured.range:
            low, high = min(low for low, _ in measured.range), max(high for _, high in measured.range)
            scaled = f"values from {low:g} to {high:g} become 0 to 255 (0.1 and 99.9 percentiles)"
        elif found.deep:
            scaled = "each image is scaled by its own 0.1 and 99.9 percentiles, because the images' ranges differ much"
        words = f"pixels: {found.types}, {channels} channels; {scaled}; measured on {measured.images} images"
        changed = replace(own, channels=channels, mean=mean, std=std, range=measured.range)
    return replace(base, model=replace(base.model, input=changed)), words


def free_new_stem(config: Config, start: Checkpoint | None, asked: Collection[str]) -> Config:
    """Nothing is frozen if the first convolution of the weights reads other channels: it must learn the new ones."""
    stem = None if start is None else start.state.get("backbone.stem.conv.weight")
    if stem is None or stem.shape[1] == config.model.input.channels or "model.backbone.freeze_at" in asked:
        return config
    return replace(config, model=replace(config.model, backbone=replace(config.model.backbone, freeze_at=0)))
