"""A model with a backbone of your own: `python examples/own_backbone.py` trains it for a few steps on drawn images.

The backbone gets normalised images [B I H W] and returns maps [B C h w], finest first. `channels` and `strides` say
what they are; an FPN makes its pyramid of them, with one level of anchors for each and one more.
"""

from pathlib import Path

from torch import Tensor, nn

import maskrcnn
from maskrcnn.data.drawn import draw_dataset


class PlainBackbone(nn.Module):
    """Five halvings by 3x3 convolutions; the last four give a map each."""

    channels = (16, 32, 64, 128)
    strides = (4, 8, 16, 32)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = halving(in_channels, 16)
        before = (16, *self.channels)
        self.stages = nn.ModuleList(halving(a, b) for a, b in zip(before, self.channels, strict=False))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def halving(in_channels: int, out_channels: int) -> nn.Module:
    """Half the side."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(4, out_channels), nn.ReLU())


def plain_backbone(config: maskrcnn.ModelConfig) -> nn.Module:
    """What `Parts` takes: a function of the model's settings."""
    return PlainBackbone(config.input.channels)


PARTS = maskrcnn.Parts(backbone=plain_backbone)


def main(out: Path) -> Path:
    """Trains in the folder `out`, then predicts; returns the checkpoint."""
    draw_dataset(out / "data", train=4, val=1, seed=0)
    settings = ["train.workers=0", "train.augment.crop=128"]
    run = {"model": "R-18-FPN-tiny", "epochs": 1, "batch": 4, "overrides": settings, "out": out / "run"}
    checkpoint = maskrcnn.train(out / "data", parts=PARTS, **run)
    predictor = maskrcnn.load(checkpoint, parts=PARTS)  # the file has the weights, the code is yours
    for result in predictor.predict(out / "data" / "images"):
        print(f"{result.path}: {len(result)} objects")
    return checkpoint


if __name__ == "__main__":
    main(Path("runs/own_backbone"))
