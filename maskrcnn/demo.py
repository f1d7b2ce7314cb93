"""The demo: draw a data set, train, evaluate, predict, report. What is done already is left alone.

It uses what any user uses: `train` on a COCO folder, `load` and `predict` on images, COCO's metrics.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .config import read_toml, to_dict
from .data.dataset import Dataset
from .data.drawn import draw_dataset
from .data.formats import read_dataset
from .evaluation.coco import measure_rows
from .evaluation.report import read_history, write_report
from .files import replacing
from .predict import load
from .training.loop import train

MODEL = "R-18-FPN-tiny"
TRAIN_IMAGES, VAL_IMAGES, DATA_SEED = 1400, 120, 1
EPOCHS = 5.4
SETTINGS = (
    "train.batch=8",
    "train.optimizer=adamw",
    "train.lr=0.008",
    "train.weight_decay=0.05",
    "train.schedule=cosine",
    "train.warmup_steps=50",
    "train.ema=0.99",
    "train.workers=0",  # reading is cheap here, and a worker would take a core from the training
    "model.fpn.norm=bn",
    "model.mask_head.norm=bn",
    "model.box_head.positive_fraction=0.3",
    "model.box_head.smooth_l1_beta=0.1",
    "train.evaluate_every=0",
    "train.validation_loss=false",
)
OVERLAYS, SHOWN = 40, 12  # images drawn, and shown in the report

OWN_DATA = """maskrcnn train DATA --model R-18-FPN --out runs/mine
maskrcnn predict runs/mine/model.safetensors IMAGES --out runs/mine/predictions"""


def demo(
    out: Path,
    *,
    train_images: int = TRAIN_IMAGES,
    val_images: int = VAL_IMAGES,
    epochs: float = EPOCHS,
    settings: tuple[str, ...] = SETTINGS,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fills `out` with data/, a run, metrics.json, predictions/ and report.html; returns the metrics of unseen images.

    Called again on the same folder it goes on where it was stopped, or does nothing.
    """
    began = time.perf_counter()
    say(f"drawing {train_images} images to train on and {val_images} others to measure on, in {out / 'data'}")
    draw_dataset(out / "data", train=train_images, val=val_images, seed=DATA_SEED, keypoints=False)
    checkpoint = train(out / "data", model=MODEL, out=out, epochs=epochs, overrides=settings)
    mark, digest = out / "demo.json", hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    if _is_done(mark, digest):
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    else:
        say(f"measuring and drawing what it finds on the {val_images} images that it has not seen")
        metrics = _measure(checkpoint, read_dataset(out / "data" / "val.json"), out)
        _write_json(mark, {"weights": digest})
    for line in _summary(metrics, out, time.perf_counter() - began):
        say(line)
    return metrics


def _is_done(mark: Path, digest: str) -> bool:
    """Whether these very weights were measured and reported."""
    return mark.exists() and json.loads(mark.read_text(encoding="utf-8")).get("weights") == digest


def _measure(checkpoint: Path, dataset: Dataset, out: Path) -> dict[str, Any]:
    """One pass over the unseen images: metrics.json, overlays, report.html."""
    predictor = load(checkpoint)
    results = predictor.predict([dataset.path(i) for i in range(len(dataset))], batch=4)
    rows: list[dict[str, Any]] = []
    overlays: list[Path] = []
    for image_id, result in zip(dataset.image_ids.tolist(), results, strict=True):
        rows += result.to_coco(image_id)
        if len(overlays) < OVERLAYS:
            sure = result.select(result.scores >= 0.5)
            overlays += sure.save(out / "predictions", ["overlay"])
    limit = predictor.config.box_head.max_detections
    metrics, curves = measure_rows(dataset, rows, max_detections=limit, tasks=("box", "mask"))
    _write_json(out / "metrics.json", metrics)
    write_report(
        out,
        metrics=metrics,
        history=read_history(out / "log.jsonl"),
        overlays=overlays[:SHOWN],
        curves=curves,
        settings=to_dict(read_toml(out / "config.toml")),
        title="Mask R-CNN on drawn shapes",
        command=OWN_DATA,
    )
    return metrics


def _summary(metrics: dict[str, Any], out: Path, seconds: float) -> list[str]:
    figures = ", ".join(
        f"{task} AP {metrics[task]['AP']:.3f}, AP50 {metrics[task]['AP50']:.3f}"
        for task in ("box", "mask")
        if metrics.get(task, {}).get("AP", -1.0) >= 0
    )
    return [
        f"on images that it has not seen: {figures or 'nothing could be measured'}",
        f"{out / 'report.html'} shows what happened, {out / 'predictions'} what was found ({seconds:.0f} s)",
        "",
        "The same on your own data, a COCO json or a folder with train.json and val.json:",
        *(f"  {line}" for line in OWN_DATA.splitlines()),
    ]


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
