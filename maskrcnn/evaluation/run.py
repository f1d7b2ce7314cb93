"""A model over a data set: its detections as COCO writes them, and their metrics.

The command line reads the options of `evaluate` here, so heavy imports wait until it runs.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError, DataError
from ..files import write_json

if TYPE_CHECKING:
    import numpy as np

    from ..config import TTA, InputConfig
    from ..data.dataset import Dataset
    from ..data.loader import EvalLoader
    from ..engine import Engine
    from ..model.parts import Parts
    from ..thresholds import Thresholds
    from ..tiling import Tiling
    from .coco import Curves
    from .errors import Judgement

Rows = list[dict[str, Any]]
METRICS, SETTINGS = "metrics.json", "settings.json"


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
    tile: str | int = "auto",
    overlap: float = 0.2,
    page: int | None = None,
    max_project: bool = False,
    unlabelled: str | None = None,
    masks: bool = True,
    boundary: bool = False,
    strict: bool = False,
    device: str | None = None,
    parts: "Parts | None" = None,
) -> dict[str, Any]:
    """The metrics of a checkpoint on a data set in COCO's format: boxes, masks and keypoints, as far as both have them.

    Categories are matched by name; the metrics list those without a counterpart.

    Args:
        weights: Checkpoint of any origin, folder of a run, or name of a release.
        data: Annotations in any known format: file, folder or zip; its val, and train only if it is alone.
        images: Folder of the images, if they are not beside the json.
        out: Folder for metrics.json, report.html and what `maskrcnn report` compares; default: nothing is written.
        max_detections: Per image or tile, for the model and in the metrics; default: the model's setting.
        batch: Images per batch, at most; only images with the same canvas run together.
        workers: Processes that read and resize images; 0 reads them in this one.
        precision: fp32, bf16, fp16 or auto.
        tta: Test-time augmentation, as for `Predictor.predict`.
        tile: Predict large images in tiles: auto, off, or their side in image pixels.
        overlap: Share of a tile's side that neighbours have in common.
        page: Page of TIFF stacks, from 1; default: the one that the model was trained on.
        max_project: See the maximum over all pages of TIFF stacks.
        unlabelled: Images without annotations: background or skip; default: as the format does.
        masks: Measure masks, if the model has them.
        boundary: Measure boundary AP of masks, too.
        strict: A bad annotation or image is an error; default: it is left out and counted.
        device: cpu, cuda or cuda:1; default: a GPU if there is one.
        parts: The own parts that the checkpoint was trained with, see docs/train.md.

    Raises `CheckpointError`, `ConfigError` and `DataError`, also if there is nothing to measure: no object, no readable
    image, no class that the model has, or no mask for a model with masks.
    """
    from ..canvas import chosen_page
    from ..data.dataset import keypoint_order
    from ..data.formats import ReadOptions, find, read_dataset
    from ..data.loader import EvalLoader
    from ..data.pixels import survey
    from ..data.usable import require_common_class, require_usable
    from ..engine import Engine, open_model
    from ..model.parts import USUAL
    from ..tiling import check_tile

    started = time.perf_counter()
    if out is not None:
        _check_folder(Path(out))
    if batch < 1 or workers < 0:
        raise ConfigError(f"batch must be at least 1 and workers at least 0; they are {batch} and {workers}")
    tile = check_tile(tile, overlap)
    model, categories, thresholds = open_model(weights, device=device, parts=parts or USUAL)
    engine = Engine.of(model, categories, precision).limited(max_detections=max_detections).seeing(tta)
    seen = chosen_page(page, max_project, engine.config.input)
    keypoints, views = engine.config.keypoint_head.enabled, engine.backend.views
    splits = find(data, ReadOptions(None if images is None else Path(images), keypoints=keypoints))
    source = next(splits[name] for name in ("val", "all", "test", "train") if name in splits)
    dataset = read_dataset(source, images, strict=strict, keypoints=keypoints, unlabelled=unlabelled, page=seen)
    masks = masks and engine.config.mask_head.enabled
    require_common_class(dataset, categories)
    require_usable(dataset, masks=masks, channels=engine.config.input.channels)
    keypoint_order(dataset, categories)  # raises before the model looks at all images
    tilings = plan_tilings(dataset, engine.config.input, tile, overlap)
    problems: dict[int, str] = {}
    rows: Rows = []
    if whole := [i for i in range(len(dataset)) if i not in tilings]:
        part = dataset.subset(whole)
        loader = EvalLoader(part, engine.config, batch=batch, workers=workers, strict=strict, views=views)
        rows += detect_rows(engine, loader)
        loader.close()
        problems |= loader.problems
    rows += detect_in_tiles(engine, dataset, tilings, problems, batch=batch, strict=strict)
    if len(problems) == len(dataset):
        raise DataError(f"{dataset.source}: none of its images can be read; the first: {next(iter(problems.values()))}")
    measured = measure(
        engine, dataset, rows, raised=bool(tilings), masks=masks, thresholds=thresholds, boundary=boundary
    )
    metrics = measured.metrics
    metrics |= {"weights": str(weights), "data": str(dataset.source), "precision": engine.backend.precision}
    metrics["notes"] += _seen_notes(dataset, engine.config.input, tilings)
    if lost := dataset.report.summary():
        metrics["notes"].append(lost)
    if not engine.config.input.range and survey(dataset).deep:
        metrics["notes"].append("images deeper than 8 bits are each scaled by their own 0.1 and 99.9 percentiles")
    if problems:
        metrics["notes"].append(f"images that could not be read: {len(problems)}; their objects count as missed")
    if tta:
        metrics["tta"] = {"scales": views.scales, "flip": views.flip}
    metrics["seconds"] = time.perf_counter() - started
    if out is not None:
        from ..config import to_dict
        from ..reports.run_report import write_report
        from .matches import matches_of, write_matches

        write_json(Path(out) / METRICS, metrics)
        write_matches(Path(out), matches_of(measured.judgement, dataset))
        settings, title = {"model": to_dict(engine.config)}, f"{Path(weights).name} on {dataset.source.name}"
        write_json(Path(out) / SETTINGS, settings)
        write_report(Path(out), **measured._asdict(), dataset=dataset, settings=settings, title=title)
    return metrics


class Measured(NamedTuple):
    """What detections on a data set are worth, and what a report of them shows."""

    metrics: dict[str, Any]
    curves: "dict[str, Curves]"
    judgement: "Judgement"  # of masks if they were measured, else of boxes
    thresholds: "np.ndarray"  # float64 [K], of the data set's classes: what the figures of `operating` count


def detect_rows(engine: "Engine", loader: "EvalLoader") -> Rows:
    """What the engine finds in the loader's images, which are this rank's share, as COCO's rows."""
    dataset = loader.dataset
    stated = {id: dataset.stated_id(i) for i, id in enumerate(dataset.image_ids.tolist())}
    batches = (
        engine.results(images, image_ids=[stated[id] for id in image_ids.tolist()]) for images, _, image_ids in loader
    )
    return [row for results in batches for result in results for row in result.to_coco()]


def plan_tilings(
    dataset: "Dataset", rule: "InputConfig", tile: str | int = "auto", overlap: float = 0.2
) -> dict[int, "Tiling"]:
    """The tilings of the images that are predicted in tiles, by their index; arguments as for `tiling.plan`."""
    from ..tiling import plan

    sizes = enumerate(map(tuple, dataset.sizes.tolist()))
    return {i: tiling for i, size in sizes if (tiling := plan(size, rule, tile, overlap))}


def detect_in_tiles(
    engine: "Engine",
    dataset: "Dataset",
    tilings: Mapping[int, "Tiling"],
    problems: dict[int, str],
    *,
    batch: int,
    strict: bool = False,
) -> Rows:
    """What the engine finds in these images, as COCO's rows. An image that cannot be read is added to `problems`, by
    its id, with the reason; if `strict`, it raises `DataError`."""
    from ..canvas import window_of
    from ..tiling import detect

    rows: Rows = []
    for i, tiling in tilings.items():
        image_id, size = int(dataset.image_ids[i]), tuple(dataset.sizes[i].tolist())
        try:
            with dataset.open(i) as image:
                window = window_of(image, engine.config.input)
                found = detect(engine, window, size, tiling, batch=batch, image_id=dataset.stated_id(i))
        except DataError as error:
            if strict:
                raise DataError(f"{dataset.source}, image {image_id}: {error}") from error
            problems[image_id] = str(error)
            continue
        rows += found.to_coco()
    return rows


def measure(
    engine: "Engine",
    dataset: "Dataset",
    rows: Iterable[dict[str, Any]],
    *,
    raised: bool = False,
    masks: bool = True,
    boundary: bool = False,
    thresholds: "Thresholds | None" = None,
) -> Measured:
    """The metrics of rows over all images of a data set, for the branches that the model has; boundary AP if asked for.

    As many detections of an image count as the model may find; if `raised`, as many as there are. `thresholds` are the
    model's, empty if it has none; None chooses them on these rows.
    """
    import numpy as np

    from ..thresholds import UNMEASURED, for_categories
    from .coco import measure_boundaries, measure_rows
    from .errors import best_thresholds, judge_rows
    from .operating import class_operating, operating_metrics

    config, rows = engine.config, list(rows)
    tasks = ["box", *["mask"] * (masks and config.mask_head.enabled), *["keypoint"] * config.keypoint_head.enabled]
    most = config.box_head.max_detections
    if raised:
        most = max([most, *Counter(row["image_id"] for row in rows).values()])
    metrics, curves = measure_rows(dataset, rows, max_detections=most, tasks=tasks, categories=engine.categories)
    task = "mask" if "mask" in metrics else "box"
    judgement = judge_rows(dataset, rows, task=task, max_detections=most, categories=engine.categories)
    if boundary and task == "mask":
        found = measure_boundaries(dataset, judgement.truth, judgement.found, most)
        metrics["boundary"], curves["boundary"], of_classes = found
        for entry, figures in zip(metrics["per_class"], of_classes, strict=True):
            entry["boundary"] = figures
    elif boundary:
        metrics["notes"].append("boundary: masks were not measured")
    if thresholds is None:
        least, chosen_by = best_thresholds(judgement), "these images"
    else:
        own = thresholds or (UNMEASURED,) * len(engine.categories)
        # A class that the model lacks has no detection, so any will do.
        least = np.array(for_categories(own, engine.categories, dataset.categories, default=own[0]))
        chosen_by = "training" if thresholds else "default"
    metrics["operating"] = operating_metrics(judgement, least, task, chosen_by)
    for entry, figures in zip(metrics["per_class"], class_operating(judgement, least), strict=True):
        entry["operating"] = figures
    return Measured(metrics, curves, judgement, least)


def _check_folder(out: Path) -> None:
    """Raises `ConfigError` if an evaluation must not be written there."""
    if out.suffix == ".json" or out.is_file():
        raise ConfigError(f"out is a folder, which gets {METRICS} and report.html; {out} is a file")
    if (out / "run.json").exists():
        raise ConfigError(f"{out} is the folder of a run, which has its own {METRICS}; choose another out")


def _seen_notes(dataset: "Dataset", rule: "InputConfig", tilings: Mapping[int, "Tiling"]) -> Iterator[str]:
    """How images were seen, if not in their own size or larger."""
    from ..canvas import fit
    from ..config import seen
    from ..tiling import shrinks

    if tilings:
        yield f"images predicted in tiles: {len(tilings)}"
    sizes = enumerate(dataset.sizes.tolist())
    scales = {i: min(fit(height, width, rule).scales) for i, (height, width) in sizes if i not in tilings}
    if shrunk := [i for i, scale in scales.items() if shrinks(scale, rule) or scale < 0.995]:
        i = min(shrunk, key=scales.__getitem__)
        known = f", {scales[i] / seen(rule)[0]:.0%} of the scale of training" if shrinks(scales[i], rule) else ""
        yield f"images that were shrunk: {len(shrunk)}; most {dataset.name(i)}, to {scales[i]:.0%} of its size{known}"
