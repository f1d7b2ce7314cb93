"""An image of 10,000 x 10,000 with 20,000 objects in tiles: memory, average precision, and the time of joining.

    python -m benchmarks.tiling [--quick]

Objects are ellipses, one in a hundred long and thin, and the detector is drawn too: from the pixels of a tile alone it
finds each object with a jittered box, a mask of 28 x 28, a random score, and misses some. So the figures are those of
the tiling and not of a training. A second image has the same objects in other places, where none crosses a tile, and
its tiles are predicted one by one: no joining can do better. With it runs the smallest network, R-18-FPN-tiny,
untrained, for the times and the memory: beside any larger one the joining takes less.

sahi (0.12.8, if it is installed) gets the same detections, as polygons in the whole image, and joins them by its
defaults (GREEDYNMM, IOS 0.5). Its time is that of this call alone, ours is from the run lengths of the tiles to those
of the image.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.canvas import window_of
from maskrcnn.categories import Category
from maskrcnn.config import ONE_VIEW, InputConfig, ModelConfig, preset
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.device import Precision
from maskrcnn.engine import Engine
from maskrcnn.evaluation.coco import measure_rows
from maskrcnn.evaluation.run import detect_in_tiles, measure
from maskrcnn.evaluation.sparse import runs_of
from maskrcnn.images import open_image
from maskrcnn.model.build import build
from maskrcnn.ops import runs as masks
from maskrcnn.results import Result
from maskrcnn.structures import Detections, Images, Proposals
from maskrcnn.tiling import Tiling, _pieces, detect, join_pieces

from .harness import Left, Middle, Options, Row, run
from .processes import in_a_process, memory_mb

SIDE, TILE, OVERLAP, CLASSES = 10_000, 1000, 200, 3
OBJECTS, LONG = 20_000, 200
SIZE = (SIDE, SIDE)
CATEGORIES = tuple(Category(id, f"class {id}") for id in range(1, CLASSES + 1))
TILING = Tiling(TILE, OVERLAP, 1.0)


def compare(options: Options) -> list[Row | Left]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "free", None)
        draw(folder / "inside", TILE)
        arguments = ["-m", "benchmarks.tiling", "predict", str(folder), str(options.threads), str(int(options.quick))]
        whole = in_a_process(arguments)
        measured = in_a_process(["-m", "benchmarks.tiling", "evaluate", str(folder), str(options.threads)])
        began = time.perf_counter()
        ap = precision(folder / "free", json.loads((folder / "rows.json").read_text()))
        evaluated = time.perf_counter() - began
        alone = precision(folder / "inside", one_by_one(folder / "inside"))
        rows = [
            _row("peak memory of predicting it from a TIFF", whole["peak"], "MB", bar=2000),
            _row("peak memory of evaluating it, metrics and all", measured["peak"], "MB", bar=2000),
            _row("mask AP, tiled and joined", ap, "AP", bar=alone - 0.01, at_least=True),
            _row("mask AP, no object crosses a tile, one by one", alone, "AP"),
            _row("joining, share of the time of all", whole["join"] / whole["all"], "", bar=0.05),
            _row(f"joining {whole['pieces']} detections of {whole['tiles']} tiles", whole["join"], "s"),
            _row("COCO's metrics of boxes and masks", evaluated, "s"),
        ]
        return [*rows, *_beside_sahi(folder, ap, whole["join"])]


def _row(what: str, value: float, unit: str, **more: Any) -> Row:
    return Row(what, Middle(value, value, value), unit, **more)


# --- the images -------------------------------------------------------------------------------------------------------


def draw(folder: Path, tile: int | None) -> None:
    """Writes image.npy, in which a pixel holds its object's number and class, the same as image.tif, and val.json. With
    `tile`, each object lies inside one tile of a grid without overlap."""
    import tifffile

    folder.mkdir()
    rng, shapes = np.random.default_rng(1), np.random.default_rng(0)
    image = np.lib.format.open_memmap(folder / "image.npy", "w+", np.uint8, (*SIZE, 3))
    taken = np.zeros(SIZE, dtype=bool)
    annotations = []
    for number in range(1, OBJECTS + 1):
        stamp = _ellipse(shapes, long=number <= LONG)
        label = int(shapes.integers(1, CLASSES + 1))
        height, width = stamp.shape
        while True:
            if tile is None:
                y, x = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
            else:
                corner = rng.integers(0, SIDE // tile, 2) * tile + 1
                y, x = corner + rng.integers(0, [tile - height - 1, tile - width - 1])
            spot = taken[y : y + height, x : x + width]
            if not (spot & stamp).any():
                break
        spot |= stamp
        image[y : y + height, x : x + width][stamp] = number & 255, number >> 8, label
        found = masks.move(masks.from_bitmaps([stamp]), height, SIDE, (int(y), int(x)))
        annotations.append({
            "id": number, "image_id": 1, "category_id": label, "iscrowd": 0, "area": int(stamp.sum()),
            "bbox": [int(x), int(y), width, height],
            "segmentation": {"size": list(SIZE), "counts": masks.encode(found, SIZE)[0].decode()},
        })  # fmt: skip
    image.flush()
    tifffile.imwrite(folder / "image.tif", image, photometric="rgb", tile=(256, 256), compression="zlib")
    images = [{"id": 1, "file_name": "image.tif", "height": SIDE, "width": SIDE}]
    categories = [{"id": category.id, "name": category.name} for category in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))


def _ellipse(rng: np.random.Generator, *, long: bool) -> np.ndarray:
    """A turned ellipse in its tight box, bool [h w]."""
    major, minor = (rng.uniform(100, 400), rng.uniform(5, 12)) if long else np.sort(rng.uniform(7, 28, 2))[::-1]
    angle = rng.uniform(0, np.pi)
    reach = int(major) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bitmap = (along / major) ** 2 + (across / minor) ** 2 <= 1
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    return bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# --- the detector -----------------------------------------------------------------------------------------------------


class Drawn:
    """Finds objects in tiles by the numbers in their pixels, with errors. Every `often`-th tile also goes through a
    network, whose times are kept and whose answer is not."""

    device = torch.device("cpu")
    precision: Precision = "fp32"
    views = ONE_VIEW

    def __init__(self, often: int = 0) -> None:
        self.often, self.count, self.seconds = often, 0, []
        self.network = Engine.of(build(replace(preset("R-18-FPN-tiny"), classes=CLASSES)).eval(), CATEGORIES).backend

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        if self.often and self.count % self.often == 0:
            began = time.perf_counter()
            self.network.detect(images)
            self.seconds.append(time.perf_counter() - began)
        (pixels,), rng = images.pixels.numpy(), np.random.default_rng(self.count)
        self.count += 1
        height, width = images.sizes[0].tolist()
        found = self._objects(pixels[:, :height, :width], rng)
        boxes, scores, labels, small = (np.array(part) for part in zip(*found, strict=True))
        return Detections(
            boxes=torch.from_numpy(boxes).float()[None],
            scores=torch.from_numpy(scores).float()[None],
            labels=torch.from_numpy(labels)[None],
            masks=torch.from_numpy(small).float()[None],
            keypoints=None,
            valid=torch.ones(1, len(found), dtype=torch.bool),
        )

    @staticmethod
    def _objects(pixels: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, float, int, np.ndarray]]:
        numbers = pixels[0].astype(np.int64) + pixels[1].astype(np.int64) * 256
        y, x = np.nonzero(numbers)
        of = numbers[y, x]
        order = np.argsort(of, kind="stable")
        y, x, of = y[order], x[order], of[order]
        begins = np.flatnonzero(np.diff(of, prepend=0)).tolist()
        rows = []
        for first, last in zip(begins, [*begins[1:], len(of)], strict=True):
            own_y, own_x = y[first:last], x[first:last]
            box = np.array([own_x.min(), own_y.min(), own_x.max() + 1, own_y.max() + 1], dtype=np.float64)
            sides = box[2:] - box[:2]
            jitter, luck, score = rng.normal(0, 0.03, 4), rng.random(), rng.beta(6, 2)
            if luck < 0.05 or (sides.min() < 5 and luck < 0.5):  # missed; slivers are missed more often
                continue
            part = pixels[2, int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] * 0.0
            part[own_y - int(box[1]), own_x - int(box[0])] = 1
            small = torch.from_numpy(part)[None, None].float()
            small = torch.nn.functional.interpolate(small, (28, 28), mode="area")[0, 0].numpy()
            limit = [*pixels.shape[:0:-1]] * 2
            box = (box + jitter * np.tile(sides, 2)).clip(0, limit)
            rows.append((box, score * min(1.0, 0.5 + sides.min() / 20), int(pixels[2, own_y[0], own_x[0]]) - 1, small))
        return rows


def engine_of(detector: Drawn) -> Engine:
    config = replace(ModelConfig(), classes=CLASSES, input=InputConfig(min_size=0, max_size=TILE + 24))
    return Engine(detector, config, CATEGORIES)


def one_by_one(folder: Path) -> list[dict[str, Any]]:
    """Rows of the tiles of a grid without overlap, nothing joined."""
    image, tiling = np.load(folder / "image.npy", mmap_mode="r"), Tiling(TILE, 0, 1.0)
    engine, windows = engine_of(Drawn()), tiling.windows(SIZE)
    found = _results(engine, image, windows)
    pieces = _pieces(found, windows, SIDE)
    assert pieces.runs is not None
    codes = np.array([*masks.encode(pieces.runs, SIZE), None], dtype=object)[:-1]
    result = replace(
        found[0],
        size=SIZE,
        boxes=pieces.boxes,
        scores=pieces.scores,
        labels=pieces.labels,
        small_masks=None,
        codes=codes,
    )
    return result.to_coco(1)


def _results(engine: Engine, image: np.ndarray, windows: np.ndarray) -> list[Result]:
    every = (engine.prepare(np.ascontiguousarray(image[y1:y2, x1:x2])) for x1, y1, x2, y2 in windows.tolist())
    return [result for images in every for result in engine.results(images)]


def predict(folder: Path, threads: int, quick: bool) -> None:
    """In a process of its own: the whole image; then the joining alone, and the time of all."""
    torch.set_num_threads(threads)
    detector = Drawn(often=40 if quick else 10)
    engine = engine_of(detector)
    began = time.perf_counter()
    with open_image(folder / "free" / "image.tif") as source:
        result = detect(engine, window_of(source, engine.config.input), SIZE, TILING, image_id=1)
    rows = result.to_coco()
    peak = memory_mb()[1]
    seconds = time.perf_counter() - began - sum(detector.seconds)
    (folder / "rows.json").write_text(json.dumps(rows))
    image, windows = np.load(folder / "free" / "image.npy", mmap_mode="r"), TILING.windows(SIZE)
    detector.count = 0
    detector.often = 0
    found = _results(engine, image, windows)
    for one in found:
        assert one.rle is not None  # what every tile has, joined or not
    times = []
    for _ in range(3):
        began = time.perf_counter()
        pieces = _pieces(found, windows, SIDE)
        joined = join_pieces(pieces, TILING, SIZE)
        assert joined.runs is not None
        masks.encode(joined.runs, SIZE)
        times.append(time.perf_counter() - began)
    network = float(np.median(detector.seconds)) * len(windows)
    facts = {"peak": peak, "join": min(times), "all": seconds + network, "network": network}
    facts |= {"pieces": len(pieces.boxes), "found": len(result), "tiles": len(windows)}
    runs = pieces.runs
    assert runs is not None
    names = ("boxes", "scores", "labels")
    np.savez(
        folder / "pieces.npz", offsets=runs.offsets, starts=runs.starts, ends=runs.ends,
        **{name: getattr(pieces, name) for name in names},
    )  # fmt: skip
    print(json.dumps(facts))


def evaluate(folder: Path, threads: int) -> None:
    """In a process of its own: what `maskrcnn evaluate` does, of which the peak of the memory is printed."""
    torch.set_num_threads(threads)
    dataset, engine = dataset_of(folder / "free"), engine_of(Drawn())
    problems: dict[int, str] = {}
    rows = detect_in_tiles(engine, dataset, {0: TILING}, problems, batch=1)
    assert not problems
    measure(engine, dataset, rows, raised=True)
    print(json.dumps({"peak": memory_mb()[1]}))


def dataset_of(folder: Path) -> Dataset:
    return read_dataset(folder / "val.json", folder)


def precision(folder: Path, rows: list[dict[str, Any]]) -> float:
    metrics = measure_rows(dataset_of(folder), rows, max_detections=len(rows), tasks=["box", "mask"])[0]
    print({task: round(metrics[task]["AP"], 4) for task in ("box", "mask")}, len(rows), file=sys.stderr)
    return metrics["mask"]["AP"]


# --- sahi -------------------------------------------------------------------------------------------------------------


def _beside_sahi(folder: Path, ours: float, seconds: float) -> list[Row | Left]:
    try:
        from sahi.postprocess.combine import GreedyNMMPostprocess
        from sahi.prediction import ObjectPrediction
        from sahi.utils.cv import get_coco_segmentation_from_bool_mask as outline
    except ImportError:
        return [Left("joining beside sahi", "sahi is not installed")]
    pieces = np.load(folder / "pieces.npz")
    runs = masks.Runs(pieces["offsets"], pieces["starts"], pieces["ends"])
    given = []
    for i, (box, score, label) in enumerate(
        zip(*(pieces[name].tolist() for name in ("boxes", "scores", "labels")), strict=True)
    ):
        bitmap, (top, left) = masks.bitmap(runs, i, SIDE)
        rings = [np.add(np.reshape(ring, (-1, 2)), (left, top)).ravel().tolist() for ring in outline(bitmap)]
        if rings:
            given.append(
                ObjectPrediction(bbox=box, score=score, category_id=label, segmentation=rings, full_shape=list(SIZE))
            )
    began = time.perf_counter()
    joined = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(given)
    theirs = time.perf_counter() - began
    polygons = [[np.reshape(ring, (-1, 2)) for ring in one.mask.segmentation] for one in joined if one.mask]
    codes = masks.encode(runs_of(polygons, np.zeros((len(polygons), 4)), SIZE), SIZE)
    rows = [
        {
            "image_id": 1, "category_id": one.category.id, "score": float(one.score.value),
            "bbox": one.bbox.to_xywh(), "segmentation": {"size": list(SIZE), "counts": code.decode()},
        }
        for one, code in zip((one for one in joined if one.mask), codes, strict=True)
    ]  # fmt: skip
    ap = precision(folder / "free", rows)
    times, both = Middle(seconds, seconds, seconds), Middle(theirs, theirs, theirs)
    ratio = seconds / theirs
    return [
        Row("joining", times, "s", "sahi", both, Middle(ratio, ratio, ratio), bar=0.5),
        _row("mask AP less that of sahi", ours - ap, "AP", bar=0.0, at_least=True),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["predict"]:
        predict(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
    elif sys.argv[1:2] == ["evaluate"]:
        evaluate(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        run(compare, __doc__)
