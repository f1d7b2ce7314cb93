"""From 100 masks of 28 x 28 to COCO's RLE of an image of 2000 x 3000: ours beside torchvision's paste and pycocotools.

python -m benchmarks.masks [--quick]
"""

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn.ops.rle import encode

from .harness import Left, Options, Row, against, interleaved, require, run

SIZE = (2000, 3000)


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    masks, boxes = objects(100)
    mine, other = ours(masks, boxes), theirs(masks, boxes)
    away = sum(different(a, b) for a, b in zip(mine, other, strict=True))
    area = float(sum(np.asarray(coco_mask.area(other)).tolist()))
    answers = require(1 - away / area, 0.99999, f"of the pixels of the masks ({away} differ)")
    contestants = {
        "ours": lambda: ours(masks, boxes),
        "torchvision's paste, pycocotools' encode": lambda: theirs(masks, boxes),
    }
    seconds = interleaved(contestants, rounds=options.rounds(15, 3))
    what = f"100 masks of 28 x 28 to RLE of {SIZE[0]} x {SIZE[1]}"
    return [against(what, seconds, *contestants, bar=0.05, answers=answers)]


def objects(count: int) -> tuple[Tensor, Tensor]:
    """Smooth probabilities [N 28 28] and boxes [N 4]. The logarithms of the sides, 32 to 1024 pixels, spread evenly."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 7, 7, generator=rng)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    blob = 6 * (0.8 - (x**2 + y**2).sqrt())
    logits = blob + torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0]
    side = 32 * 32 ** torch.rand(count, 2, generator=rng)
    centre = torch.rand(count, 2, generator=rng) * torch.tensor([SIZE[1], SIZE[0]])
    limits = torch.tensor([SIZE[1], SIZE[0]] * 2)
    boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1).clamp(min=0).minimum(limits)
    return logits.sigmoid(), boxes


def ours(masks: Tensor, boxes: Tensor) -> list[dict]:
    return encode(masks, boxes, SIZE, rule="padded")


def theirs(masks: Tensor, boxes: Tensor) -> list[dict]:
    """One object at a time: 100 float32 images of this size at once would take 2.4 GB, twice."""
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        pasted = paste_masks_in_image(mask[None, None], box[None], SIZE)[0, 0]
        found.append(coco_mask.encode(np.asfortranarray((pasted > 0.5).numpy().astype(np.uint8))))
    return found


def different(one: dict, other: dict) -> int:
    """The number of pixels that only one of two masks has."""
    both = float(coco_mask.area(coco_mask.merge([one, other], intersect=True)))
    return int(float(coco_mask.area(one)) + float(coco_mask.area(other)) - 2 * both)


if __name__ == "__main__":
    run(compare, __doc__)
