"""A model over a data set: loader, `detect`, rows as COCO writes them, gathered from all ranks, metrics."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig
from ..data.formats.coco import find_splits, read_coco
from ..data.loader import EvalLoader
from ..data.records import Category
from ..errors import ConfigError
from ..model.build import build
from ..model.mask_rcnn import MaskRCNN
from ..model.prepare import arithmetic, choose_precision, prepare
from ..results import from_detections
from ..structures import Images
from ..weights.checkpoint import replacing, restore
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
    checkpoint = read_checkpoint(weights)
    target = _device(device)
    train_json, val_json = find_splits(data, keypoints=checkpoint.config.keypoint_head.enabled)
    dataset = read_coco(
        val_json or train_json, images, strict=strict, keypoints=checkpoint.config.keypoint_head.enabled
    )
    model = build(checkpoint.config, skip_empty=target.type == "cpu")
    restore(model, checkpoint.state, weights)
    kind = "fp32" if precision == "auto" and checkpoint.config.profile not in ("ours", "paper") else precision
    chosen = choose_precision(kind, target)
    loader = EvalLoader(dataset, checkpoint.config.input, batch=batch, workers=workers, strict=strict)
    rows = detect_rows(
        model.to(target), loader, checkpoint.config, checkpoint.categories, precision=chosen, limit=max_detections
    )
    loader.close()
    metrics = measure(rows, loader, checkpoint.config, checkpoint.categories, max_detections)
    metrics |= {"weights": str(weights), "data": str(dataset.json_path), "precision": chosen}
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
    limit: int | None = None,
    tell: Callable[[int], None] | None = None,
) -> Rows:
    """What the model finds in the loader's images, which are this rank's share, as rows. The model stays as it is.

    `limit` replaces the model's `max_detections`; `tell` hears how many images are done.
    """
    device = next(model.parameters()).device
    network = prepare(model, precision)
    if limit is not None:
        select = network.steps.select
        network.steps = network.steps._replace(select=lambda *a, **k: select(*a, **{**k, "max_detections": limit}))
    rows: Rows = []
    done = 0
    for images, _, image_ids in loader:
        here = Images(*(field.to(device, non_blocking=True) for field in images))
        with arithmetic(precision, device):
            detections = network.detect(here)
        results = from_detections(
            detections,
            here,
            categories,
            image_ids=image_ids.tolist(),
            paste_rule=config.mask_head.paste,
            threshold=config.mask_head.threshold,
            joint_shift=config.keypoint_head.shift,
        )
        rows += [row for result in results for row in result.to_coco()]
        done += len(image_ids)
        if tell is not None:
            tell(done)
    return rows


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device {str(name)!r} here: {str(error).splitlines()[0]}") from error
