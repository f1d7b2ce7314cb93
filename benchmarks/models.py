"""Larger models in bf16: ours beside Detectron2 in float32 or, if it cannot be imported, beside torchvision's R-50.

    python -m benchmarks.models [--quick]

Ours run on an image of 640 x 427 at 800 x 1216, Detectron2's size, from memory to RLE and keypoints; torchvision runs
on one of 640 x 480, as in `inference.py`. tests/golden checks that these models answer as Detectron2's do. Here a model
must find its 100 detections, and its answers in float32 and bf16 must agree as in `agreement.py`.
"""

import importlib.util
from functools import partial

import numpy as np
import torch

from maskrcnn.predict import Predictor

from .harness import Left, Options, Row, Work, against, interleaved, require, run
from .rivals import Answer, image, kept, ours_of_golden, ours_predicts, torchvision_predicts, torchvision_r50

MODELS = {  # the golden whose weights are drawn, and the bar beside torchvision's model
    "R-101-FPN": ("mask_rcnn_R_101_FPN", 0.40),
    "X-101-32x8d-FPN": ("mask_rcnn_X_101_32x8d_FPN", 0.72),
    "R-50-C4": ("mask_rcnn_R_50_C4", 1.19),
    "keypoints, R-50-FPN": ("keypoint_rcnn_R_50_FPN", 0.53),
}
BAR_DETECTRON2 = 0.3
TORCHVISION = "torchvision R-50-FPN float32"


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    detectron2 = importlib.util.find_spec("detectron2") is not None
    found: list[Row | Left] = []
    for name, (golden, bar) in MODELS.items():
        found += (
            beside_detectron2(name, golden, options) if detectron2 else beside_torchvision(name, golden, bar, options)
        )
    if not detectron2:
        found.append(Left("the same beside Detectron2", "it cannot be imported here"))
    return found


def beside_torchvision(name: str, golden: str, bar: float, options: Options) -> list[Row | Left]:
    """One model of ours at a time, so that only two models are in memory."""
    predictor, rival = ours_of_golden(f"detectron2-{golden}"), torchvision_r50()
    answers = sanity(predictor)
    ours = partial(ours_predicts, predictor, image("shapes-640x427"), "bf16")
    contestants: dict[str, Work] = {"ours": ours, TORCHVISION: partial(torchvision_predicts, rival, image())}
    seconds = interleaved(contestants, rounds=options.rounds(5, 1))
    return [
        against(f"{name}, bf16, image in memory to results", seconds, "ours", TORCHVISION, bar=bar, answers=answers)
    ]


def beside_detectron2(name: str, golden: str, options: Options) -> list[Row | Left]:
    from .detectron2_rival import detectron2_model, detectron2_predicts

    predictor, rival = ours_of_golden(f"detectron2-{golden}"), detectron2_model(golden)
    array = image("shapes-640x427")
    truth = detectron2_predicts(rival, array)
    answers = require(kept(truth, shifted(ours_predicts(predictor, array, "fp32"), predictor)), 0.99, "of boxes")
    contestants: dict[str, Work] = {
        "ours": partial(ours_predicts, predictor, array, "bf16"),
        "Detectron2 float32": partial(detectron2_predicts, rival, array),
    }
    seconds = interleaved(contestants, rounds=options.rounds(5, 1))
    what = f"{name}, bf16, image in memory to results"
    return [against(what, seconds, "ours", "Detectron2 float32", bar=BAR_DETECTRON2, answers=answers)]


def sanity(predictor: Predictor) -> str:
    """Checks that all slots are filled, so that no work is left out, and that float32 and bf16 agree."""
    array = image("shapes-640x427")
    exact, near = (ours_predicts(predictor, array, precision) for precision in ("fp32", "bf16"))
    slots = predictor.config.box_head.max_detections
    require(len(near.boxes) / slots, 1.0, "of the slots")
    return require(kept(exact, near, iou=0.5), 0.5, "of float32's boxes at IoU 0.5")


def shifted(answer: Answer, predictor: Predictor) -> Answer:
    """The same with Detectron2's labels, which count from 0 without gaps."""
    place = {category.id: index for index, category in enumerate(predictor.categories)}
    return answer._replace(labels=np.array([place[int(label)] for label in answer.labels]))


if __name__ == "__main__":
    run(compare, __doc__)
