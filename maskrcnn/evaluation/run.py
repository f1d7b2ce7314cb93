"""A model over a data set: its detections as COCO writes them, and their metrics."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ..config import TTA
from ..data.dataset import keypoint_order
from ..data.formats import find_splits, read_dataset
from ..data.loader import EvalLoader
from ..engine import Engine, open_model
from ..errors import ConfigError
from ..files import replacing
from .coco import Metrics, evaluate_rows

Rows = list[dict[str, Any]]


def evaluate(
    weights: str | Path,
    data: str | Path,
    *,
    images: str | Path | None = None,
    out: str | Path | None = None,
    max_detections: int | None = None,
    batch: int = 1,
    workers: int = 2,
    precision: str = "auto",
    tta: TTA | bool = False,
    strict: bool = False,
    device: str | torch.device | None = None,
) -> Metrics:
    """The metrics of a checkpoint on a data set in COCO's format: boxes, masks and keypoints, as far as both have them.

    Args:
        weights: a checkpoint of any origin, the folder of a run, or the name of a release.
        data: a json, or a folder, of which the json for validation is taken. Categories are matched by name; the
            metrics list those without a counterpart.
        images: the folder of the images, if they do not lie beside the json.
        out: a json file for the metrics; by default none is written.
        max_detections: most detections of an image, for the model and in the metrics; by default the model's own.
        batch: images that run together, at most; only images with the same canvas can.
        workers: processes that read and resize images; 0 reads them in this one.
        precision: "fp32", "bf16", "fp16", or "auto", as for `Predictor.predict`.
        tta: test-time augmentation, as for `Predictor.predict`.
        strict: a bad annotation or image is an error; otherwise it is left out and counted.
        device: such as "cpu" or "cuda:1"; by default a GPU if there is one.

    Raises `CheckpointError`, `ConfigError` and `DataError`.
    """
    started = time.perf_counter()
    if batch < 1 or workers < 0:
        raise ConfigError(f"batch is 1 or more and workers 0 or more; they are {batch} and {workers}")
    model, categories = open_model(weights, device=device)
    engine = Engine.of(model, categories, precision).limited(max_detections=max_detections).seeing(tta)
    keypoints = engine.config.keypoint_head.enabled
    train_json, val_json = find_splits(data, keypoints=keypoints)
    dataset = read_dataset(val_json or train_json, images, strict=strict, keypoints=keypoints)
    keypoint_order(dataset, categories)  # raises before the model looks at all images
    loader = EvalLoader(dataset, engine.config, batch=batch, workers=workers, strict=strict, views=engine.backend.views)
    metrics = measure(engine, loader, detect_rows(engine, loader))
    loader.close()
    metrics |= {"weights": str(weights), "data": str(dataset.source), "precision": engine.backend.precision}
    if lost := dataset.report.summary():
        metrics["notes"].append(lost)
    if loader.problems:
        metrics["notes"].append(f"images that could not be read: {len(loader.problems)}; their objects count as missed")
    if tta:
        metrics["tta"] = {"scales": engine.backend.views.scales, "flip": engine.backend.views.flip}
    metrics["seconds"] = time.perf_counter() - started
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics


def detect_rows(engine: Engine, loader: EvalLoader, *, progress: Callable[[int], None] | None = None) -> Rows:
    """What the engine finds in the loader's images, which are this rank's share, as COCO's rows.

    `progress` is called with the number of images done.
    """
    rows: Rows = []
    done = 0
    for images, _, image_ids in loader:
        results = engine.results(images, image_ids=image_ids.tolist())
        rows += [row for result in results for row in result.to_coco()]
        done += len(results)
        if progress is not None:
            progress(done)
    return rows


def measure(engine: Engine, loader: EvalLoader, rows: Iterable[dict[str, Any]]) -> Metrics:
    """The metrics of rows over all images of the loader's data set, for the branches that the model has."""
    config = engine.config
    branches = {"box": True, "mask": config.mask_head.enabled, "keypoint": config.keypoint_head.enabled}
    return evaluate_rows(
        loader.dataset,
        rows,
        max_detections=config.box_head.max_detections,
        tasks=[task for task, present in branches.items() if present],
        categories=engine.categories,
    )
