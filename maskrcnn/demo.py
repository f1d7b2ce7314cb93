"""The demo: draws a data set, trains, evaluates, predicts and writes a report. What is already done is not repeated.

It uses what every user has: `train` on a COCO folder, `load` and `predict` on images, and COCO's metrics.
"""

import json
import time
from pathlib import Path
from typing import Any

from .config import read_toml, to_dict
from .data.drawn import draw_dataset
from .data.formats import read_dataset
from .evaluation.matches import matches_of, write_matches
from .evaluation.run import measure
from .files import fingerprint, write_json
from .predict import load
from .reports.run_report import read_history, write_report
from .thresholds import UNMEASURED
from .training.train import train

MODEL = "R-18-FPN-tiny"
TRAIN_IMAGES, VAL_IMAGES, DATA_SEED = 1400, 120, 1
EPOCHS = 5.4
SETTINGS = (  # no workers: reading is cheap here, and a worker would take a core from training
    "train.batch=8", "train.optimizer=adamw", "train.lr=0.008", "train.weight_decay=0.05", "train.schedule=cosine",
    "train.warmup_steps=50", "train.ema=0.99", "train.workers=0", "model.fpn.norm=bn", "model.mask_head.norm=bn",
    "model.box_head.positive_fraction=0.3", "model.box_head.smooth_l1_beta=0.1", "train.evaluate_every=0",
    "train.validation_loss=false",
)  # fmt: skip
OVERLAYS = 40  # images that get one

OWN_DATA = """maskrcnn train DATA --model R-18-FPN --out runs/mine
maskrcnn predict runs/mine/model.safetensors IMAGES --out runs/mine/predictions"""


def demo(out: Path) -> dict[str, Any]:
    """Fills `out` with data/, a run, metrics.json, predictions/ and report.html. Returns the metrics on unseen images.

    Called again with the same folder, it continues where it stopped, or does nothing.
    """
    began = time.perf_counter()
    print(f"drawing {TRAIN_IMAGES} training images and {VAL_IMAGES} validation images in {out / 'data'}")
    draw_dataset(out / "data", train=TRAIN_IMAGES, val=VAL_IMAGES, seed=DATA_SEED, keypoints=False)
    checkpoint = train(out / "data", model=MODEL, out=out, recipe="paper", epochs=EPOCHS, overrides=SETTINGS)
    done, metrics_json, weights = out / "demo.json", out / "metrics.json", {"weights": fingerprint(checkpoint)}
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == weights:
        metrics = json.loads(metrics_json.read_text(encoding="utf-8"))
    else:
        print(f"evaluating on the {VAL_IMAGES} validation images, and drawing what was found")
        metrics = _evaluate(checkpoint, out)
        write_json(metrics_json, metrics)
        write_json(done, weights)
    measured = [(task, metrics[task]) for task in ("box", "mask") if task in metrics]
    figures = ", ".join(f"{task} AP {found['AP']:.3f}, AP50 {found['AP50']:.3f}" for task, found in measured)
    print(f"on the validation images: {figures}")
    print(f"{out / 'report.html'} shows the run, {out / 'predictions'} the predictions", end=" ")
    print(f"({time.perf_counter() - began:.0f} s)\n")
    print("The same on your own data, annotations in any known format (docs/formats.md):")
    print("\n".join(f"  {line}" for line in OWN_DATA.splitlines()))
    return metrics


def _evaluate(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Predicts the validation images once, for the metrics, the overlays and the report."""
    dataset = read_dataset(out / "data" / "val.json")
    predictor = load(checkpoint)
    every = predictor.config.box_head.score_threshold
    results = predictor.predict([dataset.path(i) for i in range(len(dataset))], batch=4, score_threshold=every)
    engine = predictor.engine()
    sure = engine.limited(predictor.thresholds or UNMEASURED)
    rows: list[dict[str, Any]] = []
    drawn = 0
    for image_id, result in zip(dataset.image_ids.tolist(), results, strict=True):
        rows += result.to_coco(image_id)
        if drawn < OVERLAYS:
            sure.above(result).save(out / "predictions", ["overlay"])
            drawn += 1
    measured = measure(engine, dataset, rows, thresholds=predictor.thresholds)
    write_matches(out, matches_of(measured.judgement, dataset))
    write_report(
        out,
        **measured._asdict(),
        dataset=dataset,
        history=read_history(out / "log.jsonl"),
        settings=to_dict(read_toml(out / "config.toml")),
        title="Mask R-CNN on drawn shapes",
        command=OWN_DATA,
    )
    return measured.metrics
