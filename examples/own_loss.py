"""A loss of your own: `python examples/own_loss.py` trains masks with the Dice loss for a few steps on drawn images.

A loss returns a `Term`, a sum and the count that divides it, so that several processes can add both before dividing. It
gets fixed slots of which `fg.valid` says which are used; the others must not count. Predicting does not need it, so the
checkpoint loads as any other.
"""

from pathlib import Path

from torch import Tensor

import maskrcnn
from maskrcnn.data.drawn import draw_dataset
from maskrcnn.structures import RoIs, Term


def dice_loss(logits: Tensor, targets: Tensor, fg: RoIs) -> Term:
    """1 - Dice of each RoI's mask (V-Net, arXiv 1606.04797). `logits` and `targets` are [B F M M]."""
    found = logits.sigmoid()
    shared = (found * targets).sum((2, 3))  # [B F]
    dice = (2 * shared + 1) / (found.square().sum((2, 3)) + targets.square().sum((2, 3)) + 1)
    return Term(((1 - dice) * fg.valid).sum(), fg.valid.sum().float())


PARTS = maskrcnn.Parts(mask_loss=dice_loss)


def main(out: Path) -> Path:
    """Trains in the folder `out`, then predicts; returns the checkpoint."""
    draw_dataset(out / "data", train=4, val=1, seed=0)
    settings = ["train.workers=0", "train.augment.crop=128"]
    run = {"model": "R-18-FPN-tiny", "epochs": 1, "batch": 4, "overrides": settings, "out": out / "run"}
    checkpoint = maskrcnn.train(out / "data", parts=PARTS, **run)
    for result in maskrcnn.load(checkpoint).predict(out / "data" / "images"):
        print(f"{result.path}: {len(result)} objects")
    return checkpoint


if __name__ == "__main__":
    main(Path("runs/own_loss"))
