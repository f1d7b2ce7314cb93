"""A model over a data set: loader, `detect`, rows as COCO writes them, gathered from all ranks, metrics."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..accelerate.prepare import limit, prepare
from ..categories import Category, flip_pairs
from ..config import ModelConfig
from ..data.dataset import keypoint_order
from ..data.formats import find_splits, read_dataset
from ..data.loader import EvalLoader
from ..device import arithmetic, choose_device, choose_precision
from ..errors import ConfigError
from ..files import replacing
from ..model.build import build
from ..model.mask_rcnn import MaskRCNN
from ..model.tta import TTA, choose_views, detect_views
from ..results import from_detections
from ..structures import Images
from ..weights.checkpoint import restore
from ..weights.read import read_checkpoint
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
    """The metrics of a checkpoint on a COCO data set, which are also written to `out` (default: nowhere), a json.

    `weights` is a checkpoint of any origin, a run's folder or a release's name; `data` a json, or a folder whose val
    json is taken. Categories are matched by name; what has no counterpart is listed in the metrics. `max_detections`
    (default: the model's own) bounds what the model gives and what counts. Raises `CheckpointError`, `ConfigError` and
    `DataError`.
    """
    started = time.perf_counter()
    if batch < 1 or workers < 0:
        raise ConfigError(f"batch is 1 or more and workers 0 or more; they are {batch} and {workers}")
    checkpoint = read_checkpoint(weights)
    config, categories = checkpoint.config, checkpoint.categories
    target, views = choose_device(device), choose_views(tta)
    train_json, val_json = find_splits(data, keypoints=config.keypoint_head.enabled)
    dataset = read_dataset(val_json or train_json, images, strict=strict, keypoints=config.keypoint_head.enabled)
    keypoint_order(dataset, categories)  # raises before the model looks at all images
    model = build(config, skip_empty=target.type == "cpu").to(target)
    restore(model, checkpoint.state, weights)
    chosen = choose_precision(precision, target, config.profile)
    seen: Any = {"view_scales": views.scales, "view_flip": views.flip} if views else {}
    loader = EvalLoader(dataset, config.input, batch=batch, workers=workers, strict=strict, **seen)
    limits: Any = {"precision": chosen, "max_detections": max_detections, "tta": views}
    rows = detect_rows(model, loader, config, categories, **limits)
    loader.close()
    metrics = measure(rows, loader, config, categories, max_detections)
    metrics |= {"weights": str(weights), "data": str(dataset.source), "precision": chosen}
    if told := dataset.report.summary():
        metrics["notes"].append(told)
    if loader.problems:
        metrics["notes"].append(f"images that could not be read: {len(loader.problems)}; their objects count as missed")
    if views:
        metrics["tta"] = views._asdict()
    metrics["seconds"] = time.perf_counter() - started
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics


def measure(
    rows: Iterable[dict[str, Any]],
    loader: EvalLoader,
    config: ModelConfig,
    categories: Sequence[Category],
    max_detections: int | None = None,
) -> Metrics:
    """The metrics of rows over all images of the loader's data set, for the branches that the model has."""
    branches = {"box": True, "mask": config.mask_head.enabled, "keypoint": config.keypoint_head.enabled}
    return evaluate_rows(
        loader.dataset,
        rows,
        max_detections=max_detections or config.box_head.max_detections,
        tasks=[task for task, present in branches.items() if present],
        categories=categories,
    )


@torch.inference_mode()
def detect_rows(
    model: MaskRCNN,
    loader: EvalLoader,
    config: ModelConfig,
    categories: Sequence[Category],
    *,
    precision: Any = "fp32",
    max_detections: int | None = None,
    tta: TTA | None = None,
    tell: Callable[[int], None] | None = None,
) -> Rows:
    """What the model finds in the loader's images, which are this rank's share, as rows. The model stays as it is.

    `max_detections` replaces the model's; `tta` is what the loader's views were made for; `tell` hears how many images
    are done.
    """
    device = next(model.parameters()).device
    network = prepare(model, precision)
    limit(network, max_detections=max_detections)
    rows: Rows = []
    done = 0
    for images, _, image_ids in loader:
        views = [images._replace(views=()), *images.views]
        here = [Images(*(field.to(device, non_blocking=True) for field in view[:-1])) for view in views]  # type: ignore[arg-type]
        with arithmetic(precision, device):
            if tta is None:
                detections = network.detect(here[0])
            else:
                detections = detect_views(network, here, flip=tta.flip, flip_pairs=flip_pairs(categories))
        results = from_detections(
            detections,
            here[0],
            categories,
            image_ids=image_ids.tolist(),
            paste_rule=config.mask_head.paste,
            threshold=config.mask_head.threshold,
            keypoint_shift=config.keypoint_head.shift,
        )
        rows += [row for result in results for row in result.to_coco()]
        done += len(image_ids)
        if tell is not None:
            tell(done)
    return rows
