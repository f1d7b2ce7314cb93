"""Evaluation of 5,000 images with 50 detections each, boxes and masks: ours beside pycocotools and faster-coco-eval.

    python -m benchmarks.evaluation [--quick]

The data are drawn: 7 objects per image, 80 classes, ellipses as RLE. Detections are the objects, moved and rescaled,
and wrong boxes. The clock runs from the ground truth in memory and the rows in memory to AP and AR of boxes and masks.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.evaluation.coco import measure_rows
from maskrcnn.ops.rle import encode

from .harness import AnswersDiffer, Left, Options, Row, Work, against, interleaved, run

SIZE = (480, 640)
CLASSES = 80
OBJECTS, DETECTIONS = 7, 50
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Figures = list[float]


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    count, rounds = (300, 1) if options.quick else (5000, 3)
    with tempfile.TemporaryDirectory() as folder:
        path, rows = draw(Path(folder), count)
        dataset = read_dataset(path)
        contestants = {
            "ours": lambda: ours(dataset, rows),
            "pycocotools": theirs(path, rows, "pycocotools", copies=rounds + 1),
            "faster-coco-eval": theirs(path, rows, "faster-coco-eval", copies=rounds + 1),
        }
        answers = {name: work() for name, work in contestants.items()}
        words = [same(answers["ours"], answers[name], name) for name in ("pycocotools", "faster-coco-eval")]
        works: dict[str, Work] = dict(contestants)
        seconds = interleaved(works, rounds=rounds, warmup=0)
    what = f"evaluation of {count} images x {DETECTIONS} detections, boxes and masks"
    return [
        against(what, seconds, "ours", "pycocotools", bar=0.1, answers=words[0]),
        against(what, seconds, "ours", "faster-coco-eval", bar=0.5, answers=words[1]),
    ]


def same(ours: Figures, theirs: Figures, who: str) -> str:
    away = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if not away <= 1e-9:
        raise AnswersDiffer(f"figures of {who} differ from ours by up to {away:.2g}: {ours} {theirs}")
    return f"24 figures within {max(away, 1e-16):.0e}, mask AP {ours[12]:.3f}"


def ours(dataset: Dataset, rows: list[dict[str, Any]]) -> Figures:
    metrics, _ = measure_rows(dataset, rows, tasks=("box", "mask"))
    return [metrics[task][name] for task in ("box", "mask") for name in NAMES]


def theirs(path: Path, rows: list[dict[str, Any]], who: str, copies: int) -> Callable[[], Figures]:
    """The evaluators as users call them. `loadRes` writes into the rows, so every round has its own copy. Rows of masks
    come without boxes, because `loadRes` would take the area of the box for that of the mask.
    """
    if who == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    fields = {"bbox": "segmentation", "segm": "bbox"}
    fresh = [
        {kind: [{k: v for k, v in row.items() if k != other} for row in rows] for kind, other in fields.items()}
        for _ in range(copies)
    ]

    def work() -> Figures:
        figures: Figures = []
        mine = fresh.pop()
        with contextlib.redirect_stdout(io.StringIO()):
            for kind in fields:
                run: Any = COCOeval(truth, truth.loadRes(mine[kind]), kind)
                for act in (run.evaluate, run.accumulate, run.summarize):
                    act()
                figures += np.asarray(run.stats)[:12].tolist()
        return figures

    return work


# --- what is evaluated -----------------------------------------------------------------------------------------------


def draw(folder: Path, count: int) -> tuple[Path, list[dict[str, Any]]]:
    """The json of the ground truth and the rows of the detections."""
    rng = np.random.default_rng(0)
    masks = ellipse()
    annotations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        boxes, labels = random_boxes(rng, OBJECTS), rng.integers(1, CLASSES + 1, OBJECTS)
        for box, label, rle in zip(boxes, labels.tolist(), encoded(masks, boxes), strict=True):
            area = float(np.pi / 4 * (box[2] - box[0]) * (box[3] - box[1]))
            annotations.append(
                {"id": len(annotations) + 1, "iscrowd": 0, "area": area} | row_of(number, label, box, rle)
            )
        found, classes = detections(rng, boxes, labels)
        scores = rng.uniform(0.05, 1, len(found)).tolist()
        for box, label, rle, score in zip(found, classes.tolist(), encoded(masks, found), scores, strict=True):
            rows.append(row_of(number, label, box, rle) | {"score": score})
        (folder / f"{number}.png").touch()
    images = [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(1, count + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    path = folder / "data.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, rows


def detections(rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each object four times, moved and rescaled more and more, and boxes that fit no object."""
    around = np.repeat(boxes, 4, axis=0)
    sides = np.tile(around[:, 2:] - around[:, :2], 2)
    moved = around + sides * rng.normal(0, np.tile([0.02, 0.06, 0.12, 0.25], len(boxes))[:, None], around.shape)
    wrong = random_boxes(rng, DETECTIONS - len(moved))
    found = np.concatenate([moved, wrong]).round(2)
    found = np.concatenate([np.minimum(found[:, :2], found[:, 2:] - 2), found[:, 2:]], axis=1)
    return found, np.concatenate([np.repeat(labels, 4), rng.integers(1, CLASSES + 1, len(wrong))])


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes inside the image with sides from 10 to 300 pixels, float64 [n 4], xyxy."""
    sides = 10 * 30 ** rng.uniform(0, 1, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([SIZE[1], SIZE[0]]) - sides)
    return np.concatenate([corner, corner + sides], axis=1).round(2)


def ellipse() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    return (4 * (1 - x**2 - y**2)).sigmoid()[None]


def encoded(mask: torch.Tensor, boxes: np.ndarray) -> Sequence[dict[str, Any]]:
    found = encode(mask.expand(len(boxes), -1, -1), torch.from_numpy(boxes).float(), SIZE)
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in found]


def row_of(number: int, label: int, box: np.ndarray, rle: dict[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = box.tolist()
    return {
        "image_id": number, "category_id": label, "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "segmentation": rle,
    }  # fmt: skip


if __name__ == "__main__":
    run(compare, __doc__)
