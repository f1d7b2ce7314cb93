"""A model over a data set: its detections as COCO writes them, and their metrics.

The command line reads the options of `evaluate` here, so heavy imports wait until it runs.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import write_json

if TYPE_CHECKING:
    from ..config import TTA
    from ..data.loader import EvalLoader
    from ..engine import Engine

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
    tta: "TTA | bool" = False,
    strict: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """The metrics of a checkpoint on a data set in COCO's format: boxes, masks and keypoints, as far as both have them.

    Categories are matched by name; the metrics list those without a counterpart.

    Args:
        weights: Checkpoint of any origin, folder of a run, or name of a release.
        data: COCO json, or a folder with val.json.
        images: Folder of the images, if they are not beside the json.
        out: File to write the metrics to, as JSON; default: none.
        max_detections: Per image, for the model and in the metrics; default: the model's setting.
        batch: Images per batch, at most; only images with the same canvas run together.
        workers: Processes that read and resize images; 0 reads them in this one.
        precision: fp32, bf16, fp16 or auto.
        tta: Test-time augmentation, as for `Predictor.predict`.
        strict: A bad annotation or image is an error; default: it is left out and counted.
        device: cpu, cuda or cuda:1; default: a GPU if there is one.

    Raises `CheckpointError`, `ConfigError` and `DataError`.
    """
    from ..data.dataset import keypoint_order
    from ..data.formats import find_splits, read_dataset
    from ..data.loader import EvalLoader
    from ..engine import Engine, open_model

    started = time.perf_counter()
    if out is not None and Path(out).is_dir():
        raise ConfigError(f"out is the file for the metrics, but {out} is a folder")
    if batch < 1 or workers < 0:
        raise ConfigError(f"batch must be at least 1 and workers at least 0; they are {batch} and {workers}")
    model, categories = open_model(weights, device=device)
    engine = Engine.of(model, categories, precision).limited(max_detections=max_detections).seeing(tta)
    keypoints, views = engine.config.keypoint_head.enabled, engine.backend.views
    train_json, val_json = find_splits(data, keypoints=keypoints)
    dataset = read_dataset(val_json or train_json, images, strict=strict, keypoints=keypoints)
    keypoint_order(dataset, categories)  # raises before the model looks at all images
    loader = EvalLoader(dataset, engine.config, batch=batch, workers=workers, strict=strict, views=views)
    metrics = measure(engine, loader, detect_rows(engine, loader))
    loader.close()
    metrics |= {"weights": str(weights), "data": str(dataset.source), "precision": engine.backend.precision}
    if lost := dataset.report.summary():
        metrics["notes"].append(lost)
    if loader.problems:
        metrics["notes"].append(f"images that could not be read: {len(loader.problems)}; their objects count as missed")
    if tta:
        metrics["tta"] = {"scales": views.scales, "flip": views.flip}
    metrics["seconds"] = time.perf_counter() - started
    if out is not None:
        write_json(out, metrics)
    return metrics


def detect_rows(engine: "Engine", loader: "EvalLoader") -> Rows:
    """What the engine finds in the loader's images, which are this rank's share, as COCO's rows."""
    batches = (engine.results(images, image_ids=image_ids.tolist()) for images, _, image_ids in loader)
    return [row for results in batches for result in results for row in result.to_coco()]


def measure(engine: "Engine", loader: "EvalLoader", rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of rows over all images of the loader's data set, for the branches that the model has."""
    from .coco import measure_rows

    config = engine.config
    tasks = ["box", *["mask"] * config.mask_head.enabled, *["keypoint"] * config.keypoint_head.enabled]
    most = config.box_head.max_detections
    return measure_rows(loader.dataset, rows, max_detections=most, tasks=tasks, categories=engine.categories)[0]
