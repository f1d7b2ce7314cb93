"""A model with a mask head of your own: `python examples/own_head.py` trains it for a few steps on drawn images.

The head gets the features of each foreground RoI or detection [B F C S S] and its class [B F], and returns the logits
of that class's mask [B F M M]. Any M is fine: the targets are made for it. Slots that are not used hold zeros; what
comes out for them is ignored.
"""

from pathlib import Path

from torch import Tensor, nn

import maskrcnn
from maskrcnn.data.drawn import draw_dataset


class ShuffledMasks(nn.Module):
    """Two convolutions, then four channels become four pixels: one mask for whatever class."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 4, 1),
            nn.PixelShuffle(2),
        )

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        maps = self.layers(features.flatten(0, 1))  # [B * F, 1, M, M]
        return maps.squeeze(1).float().unflatten(0, labels.shape)


def shuffled_masks(channels: int, config: maskrcnn.ModelConfig) -> nn.Module:
    """What `Parts` takes: a function of the channels of the features and of the model's settings."""
    return ShuffledMasks(channels, config.mask_head.channels)


PARTS = maskrcnn.Parts(mask_head=shuffled_masks)


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
    main(Path("runs/own_head"))
