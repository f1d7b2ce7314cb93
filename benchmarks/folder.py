"""From a folder of JPEGs to RLE: ours, which reads and resizes images ahead, beside a loop over torchvision.

    python -m benchmarks.folder [--quick]

R-50-FPN, images of 640 x 480 with 100 detections each. Seconds are for one image, decoding included on both sides.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from maskrcnn.predict import Predictor

from .harness import Left, Options, Row, Work, against, interleaved, require, run
from .rivals import Answer, image, kept, ours_from, torchvision_predicts, torchvision_r50

TORCHVISION = "torchvision float32, one by one"


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    count = options.rounds(8, 3)
    rival = torchvision_r50()
    predictor = ours_from(rival.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        array = image()
        for number in range(count):  # all different
            Image.fromarray(np.roll(array, 40 * number, axis=1)).save(Path(folder) / f"{number}.jpg", quality=95)
        theirs, exact = one_by_one(rival, Path(folder)), ours(predictor, Path(folder), "fp32")
        same = float(np.mean([kept(a, b) for a, b in zip(theirs, exact, strict=True)]))
        answers = require(same, 0.99, "of boxes in float32")
        contestants: dict[str, Work] = {
            "ours": partial(ours, predictor, Path(folder), "bf16"),
            TORCHVISION: partial(one_by_one, rival, Path(folder)),
        }
        seconds = interleaved(contestants, rounds=options.rounds(3, 1), warmup=1)
    each = {name: [time / count for time in times] for name, times in seconds.items()}
    return [against("R-50-FPN, a folder of JPEGs to RLE, bf16, each", each, "ours", TORCHVISION, answers=answers)]


def ours(predictor: Predictor, folder: Path, precision: str) -> list[Answer]:
    results = predictor.predict(folder, precision=precision)
    return [Answer(result.boxes, result.labels, result.rle or []) for result in results]


def one_by_one(model: nn.Module, folder: Path) -> list[Answer]:
    return [torchvision_predicts(model, np.array(Image.open(file))) for file in sorted(folder.iterdir())]


if __name__ == "__main__":
    run(compare, __doc__)
