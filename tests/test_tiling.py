"""Tiles from end to end: which images are cut, a backend that sees windows alone, results and rows of the whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskrcnn.canvas import window_of
from maskrcnn.categories import Category
from maskrcnn.cli.main import app
from maskrcnn.config import ONE_VIEW, AugmentConfig, Config, InputConfig, ModelConfig, TrainConfig, preset
from maskrcnn.data.formats import read_dataset
from maskrcnn.device import Precision
from maskrcnn.engine import Engine
from maskrcnn.errors import ConfigError
from maskrcnn.evaluation.coco import measure_rows
from maskrcnn.evaluation.run import evaluate
from maskrcnn.ops import rle
from maskrcnn.predict import load
from maskrcnn.results import Result
from maskrcnn.structures import Detections, Images, Proposals
from maskrcnn.tiling import Tiling, check_tile, detect, plan, remark, seen
from maskrcnn.training.run import with_seen
from maskrcnn.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.scenes import Scene, Thing, write_coco
from tests.tiny import write_tiny_checkpoint

SIDE = 48  # of the tiles below, with an overlap of 16
CATEGORIES = (Category(3, "brick"), Category(7, "leaf"))
CONFIG = replace(ModelConfig(), classes=2, input=InputConfig(min_size=0, max_size=64))


class Oracle:
    """Finds rectangles of one colour per class, in what it is shown and nowhere else."""

    device = torch.device("cpu")
    precision: Precision = "fp32"
    views = ONE_VIEW

    def __init__(self) -> None:
        self.canvases: list[tuple[int, ...]] = []

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        assert proposals is None
        self.canvases.append(tuple(images.pixels.shape))
        found = [self._objects(pixels.numpy()) for pixels in images.pixels]
        many = max(len(rows) for rows in found)
        boxes, scores, labels = torch.zeros(len(found), many, 4), torch.zeros(len(found), many), []
        for b, rows in enumerate(found):
            for d, (box, score, _) in enumerate(rows):
                boxes[b, d], scores[b, d] = torch.tensor(box), score
            labels.append([label for *_, label in rows] + [0] * (many - len(rows)))
        return Detections(
            boxes=boxes,
            scores=scores,
            labels=torch.tensor(labels, dtype=torch.int64).reshape(len(found), many),
            masks=torch.ones(len(found), many, 28, 28),
            keypoints=None,
            valid=scores > 0,
        )

    def _objects(self, pixels: np.ndarray) -> list[tuple[list[float], float, int]]:
        rows = []
        for value in np.unique(pixels[0]).tolist():
            if value:  # the red channel numbers the objects, the green one has their class
                y, x = np.nonzero(pixels[0] == value)
                box = [float(side) for side in (x.min(), y.min(), x.max() + 1, y.max() + 1)]
                rows.append((box, value / 255, int(pixels[1, y[0], x[0]])))
        return rows


def drawn(size: tuple[int, int], objects: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    """An image of rectangles (class, x1, y1, x2, y2) for `Oracle`."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (label, x1, y1, x2, y2) in enumerate(objects, 1):
        image[y1:y2, x1:x2] = number * 10, label, 0
    return image


OBJECTS = [(0, 2, 3, 12, 13), (1, 40, 30, 46, 40), (0, 20, 50, 90, 60), (1, 50, 70, 120, 75), (0, 100, 4, 128, 20)]


def tiled(backend: Oracle, image: np.ndarray, scale: float = 1.0, batch: int = 2) -> Result:
    engine, tiling, size = Engine(backend, CONFIG, CATEGORIES), Tiling(SIDE, 16, scale), (80, 128)
    return detect(engine, window_of(image, CONFIG.input), size, tiling, batch=batch, image_id="a")


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_objects_of_all_tiles_come_out_whole_in_pixels_of_the_image(batch: int) -> None:
    backend = Oracle()
    result = tiled(backend, drawn((80, 128), OBJECTS), batch=batch)
    assert (result.tiles, result.scale, len(result)) == (2 * 4, 1.0, 5)
    assert sum(canvas[0] for canvas in backend.canvases) == 8
    assert {canvas[2:] for canvas in backend.canvases} == {(64, 64)}
    assert result.boxes.tolist() == [list(box) for _, *box in reversed(OBJECTS)]  # the last has the best score
    assert result.names == ["brick", "leaf", "brick", "leaf", "brick"]
    want = np.zeros((5, 80, 128), dtype=bool)
    for mask, (_, x1, y1, x2, y2) in zip(want, reversed(OBJECTS), strict=True):
        mask[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(result.masks, want)
    np.testing.assert_array_equal(result.mask(2), want[2])
    assert result.rle is not None
    codes = [rle.string_from_counts(rle.counts_from_bitmap(mask)) for mask in want]
    assert [one["counts"] for one in result.rle] == codes
    rows = result.to_coco()
    assert json.loads(json.dumps(rows))[0] == {
        "image_id": "a",
        "category_id": 3,
        "bbox": [100, 4, 28, 16],
        "score": pytest.approx(50 / 255),
        "segmentation": {"size": [80, 128], "counts": codes[0].decode()},
    }


def test_tiles_are_laid_on_the_canvas_at_the_given_scale() -> None:
    class Bright(Oracle):
        def _objects(self, pixels: np.ndarray) -> list[tuple[list[float], float, int]]:
            bright = np.where(pixels > 100, 200, 0)  # a resized border has all values
            return [(box, score, 1) for box, score, _ in super()._objects(bright)]

    backend, image = Bright(), np.zeros((80, 128, 3), np.uint8)
    image[20:40, 30:110] = 200
    result = tiled(backend, image, 2.0)
    assert {canvas[2:] for canvas in backend.canvases} == {(96, 96)}
    assert (result.scale, result.boxes.tolist()) == (2.0, [[30, 20, 110, 40]])
    assert result.masks is not None
    assert (result.masks[0] == (image[..., 0] > 0)).all()


def test_parts_outlines_and_overlay_of_a_tiled_result() -> None:
    result = tiled(Oracle(), drawn((80, 128), OBJECTS))
    best = result.select(result.scores > 0.1)
    assert best.codes is not None
    assert len(best) == len(best.codes) == 3
    np.testing.assert_array_equal(best.mask(0), result.mask(0))
    assert result.select([]).masks is not None
    assert result.outlines is not None
    for outline, (_, x1, y1, x2, y2) in zip(result.outlines, reversed(OBJECTS), strict=True):
        ((ring,), holes) = outline
        assert not holes
        assert [*ring.min(axis=0), *ring.max(axis=0)] == [x1, y1, x2, y2]
    assert result.polygons is not None
    shown = replace(result, image=drawn((80, 128), OBJECTS)).overlay()
    assert shown.size[0] >= 128


def test_an_image_without_objects() -> None:
    result = tiled(Oracle(), drawn((80, 128), []))
    assert len(result) == 0
    assert result.to_coco() == []
    assert result.rle == []
    assert result.outlines == []
    assert result.masks is not None
    assert result.masks.shape == (0, 80, 128)


def test_tiles_cover_the_image_with_equal_sizes_and_at_least_the_overlap() -> None:
    windows = Tiling(100, 20, 1.0).windows((100, 357))
    assert windows[:, 0].tolist() == [0, 64, 128, 193, 257]  # four would not do: (357 - 20) / 80 = 4.2
    assert ((windows[:, 2:] - windows[:, :2]) == 100).all()
    assert Tiling(100, 20, 1.0).windows((60, 80)).tolist() == [[0, 0, 80, 60]]
    assert Tiling(100, 0, 1.0).windows((100, 200)).tolist() == [[0, 0, 100, 100], [100, 0, 200, 100]]


# --- which images are cut -------------------------------------------------------------------------

PHOTOS = InputConfig(min_size=800, max_size=1333)


@pytest.mark.parametrize(
    ("rule", "size", "want"),
    [
        (replace(PHOTOS, seen_scale=1.6, seen_side=1024), (800, 640), None),  # at 1.25, above two thirds of 1.6
        (replace(PHOTOS, seen_scale=1.6, seen_side=1024), (900, 780), Tiling(640, 128, 1.6)),  # at 1.03
        (PHOTOS, (4000, 3000), None),  # nobody knows at which scale another framework trained
        (InputConfig(min_size=0, zoom=2, max_size=1333), (603, 1272), Tiling(666, 133, 2.0)),
        (InputConfig(min_size=0, zoom=2, max_size=1333), (500, 990), None),  # at 1.35
        (InputConfig(min_size=0, max_size=1333, seen_scale=1, seen_side=320), (10000, 10000), Tiling(320, 64, 1.0)),
        (InputConfig(min_size=0, max_size=1333, seen_scale=1, seen_side=320), (1333, 1333), None),
    ],
)
def test_auto_cuts_what_would_be_shrunk_below_two_thirds(
    rule: InputConfig, size: tuple[int, int], want: Tiling | None
) -> None:
    assert plan(size, rule) == want
    assert plan(size, rule, "off") is None


def test_tiles_of_a_given_side() -> None:
    known = replace(PHOTOS, seen_scale=0.5, seen_side=320)
    assert plan((2000, 3000), known, 1000, 0.1) == Tiling(1000, 100, 0.5)
    assert plan((2000, 3000), PHOTOS, 640, 0.25) == Tiling(640, 160, 1.25)  # as an image of that size is resized
    assert plan((1000, 900), known, 1000) is None
    assert check_tile("512", 0.2) == 512


@pytest.mark.parametrize(
    ("tile", "overlap"), [("all", 0.2), ("1.5", 0.2), (0, 0.2), (31, 0.2), ("auto", 1), (64, -0.1)]
)
def test_other_tiles_are_refused(tile: str | int, overlap: float) -> None:
    with pytest.raises(ConfigError, match="tile" if overlap == 0.2 else "overlap"):
        check_tile(tile, overlap)


def test_one_line_says_how_an_image_was_seen() -> None:
    small = Result((10, 10), np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert remark(small, PHOTOS) == ""
    assert remark(replace(small, scale=0.27), PHOTOS) == "shrunk to 27% of its size"
    known = replace(PHOTOS, seen_scale=1.0, seen_side=320)
    assert remark(replace(small, scale=0.5), known) == "shrunk to 50% of the scale of training"
    assert remark(replace(small, tiles=12), known) == "in 12 tiles"
    assert seen(preset("R-50-FPN").input) == (0.0, 0)


# --- with a model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that saw images of 64 pixels in their own size."""
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("run") / "model.safetensors")
    found = load_checkpoint(path)
    rule = replace(found.config.input, max_size=96, seen_scale=1.0, seen_side=64)
    save_checkpoint(path, found._replace(config=replace(found.config, input=rule)))
    return path


SCENE = Scene((150, 170), (Thing("brick", (10, 20, 60, 50)), Thing("leaf", (90, 60, 150, 120))))


def test_predict_cuts_large_images_and_leaves_others_alone(checkpoint: Path, tmp_path: Path) -> None:
    large, small = SCENE.pixels, SCENE.pixels[:60, :90]
    Image.fromarray(large).save(tmp_path / "large.png")
    predictor = load(checkpoint)
    results = list(predictor.predict([small, tmp_path / "large.png", large, small], precision="fp32", batch=2))
    assert [result.tiles for result in results] == [1, 12, 12, 1]
    assert [result.size for result in results] == [(60, 90), (150, 170), (150, 170), (60, 90)]
    assert (results[1].path, results[1].image) == (tmp_path / "large.png", None)
    np.testing.assert_array_equal(results[2].image, large)
    assert results[1].to_coco("x") == results[2].to_coco("x")
    assert results[1].small_masks is None
    whole = next(predictor.predict(large, tile="off"))
    assert (whole.tiles, whole.codes) == (1, None)
    assert whole.scale == pytest.approx(96 / 170, abs=0.01)
    assert next(predictor.predict(large, tile=100)).tiles == 4
    with pytest.raises(ConfigError, match="tile"):
        predictor.predict(large, tile="some")


def test_an_image_that_cannot_be_read_in_its_turn_is_skipped(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(SCENE.pixels).save(tmp_path / "good.png")
    broken = (tmp_path / "good.png").read_bytes()[:200]  # its header states a large image
    (tmp_path / "broken.png").write_bytes(broken)
    errors: list[Any] = []
    results = list(load(checkpoint).predict(str(tmp_path), on_error=errors.append))
    assert [result.path for result in results] == [tmp_path / "good.png"]
    assert "broken.png" in str(errors[0])


def test_the_command_says_what_it_did(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(SCENE.pixels).save(tmp_path / "large.png")
    arguments = ["predict", str(checkpoint), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert "(in 12 tiles)" in told.output
    told = CliRunner().invoke(app, [*arguments, "--tile", "off", "--overwrite"])
    assert "(shrunk to 56% of the scale of training)" in told.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())
    assert "in tiles of 64 pixels" in CliRunner().invoke(app, ["info", str(checkpoint)]).output


def test_a_file_with_windows_may_be_larger_than_the_limit_of_a_whole_image(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is predicted and saved, but for the overlay, which needs all of it."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "large.tif", SCENE.pixels, tile=(64, 64), photometric="rgb")
    (want,) = load(checkpoint).predict(SCENE.pixels)
    monkeypatch.setattr("maskrcnn.images.MAX_PIXELS", 100 * 100)
    monkeypatch.setattr("maskrcnn.images.tiff._LARGE", 0)
    arguments = ["predict", str(checkpoint), str(tmp_path / "large.tif"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert "(in 12 tiles)" in told.output
    assert "MAX_PIXELS" in told.output
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == len(want) > 0


def test_evaluate_measures_tiled_images_as_predict_finds_them(checkpoint: Path, tmp_path: Path) -> None:
    small = Scene((64, 64), (Thing("wave", (10, 12, 42, 40)),))
    path = write_coco(tmp_path, {"large.png": SCENE, "small.png": small, "again.png": SCENE}, "val.json")
    metrics = evaluate(checkpoint, path, images=tmp_path / "images", workers=0, precision="fp32")
    files = [tmp_path / "images" / name for name in ("large.png", "small.png", "again.png")]
    predictor = load(checkpoint)
    results = list(predictor.predict(files, precision="fp32"))
    assert [result.tiles for result in results] == [12, 1, 12]
    rows = [row for id, result in enumerate(results, 1) for row in result.to_coco(id)]
    most = max(20, *map(len, results))
    assert most > 20  # more than the model finds in one image
    dataset = read_dataset(path, tmp_path / "images")
    want = measure_rows(dataset, rows, max_detections=most, tasks=["box", "mask"], categories=predictor.categories)[0]
    assert metrics["predictions"] == len(rows)
    assert metrics["max_detections"] == most
    assert metrics["box"] == pytest.approx(want["box"])
    assert metrics["mask"] == pytest.approx(want["mask"])
    assert "images predicted in tiles: 2" in metrics["notes"]
    shrunk = evaluate(checkpoint, path, images=tmp_path / "images", workers=0, tile="off")
    (note,) = (note for note in shrunk["notes"] if "shrunk" in note)
    assert note == "images that were shrunk: 2; most large.png, to 56% of its size, 56% of the scale of training"


@pytest.mark.parametrize(
    ("rule", "crop", "want"),
    [
        (InputConfig(min_size=80, max_size=1000), 0, (2.0, 96)),  # the square root of 80 x 120
        (InputConfig(min_size=80, max_size=1000), 64, (2.0, 64)),
        (InputConfig(min_size=0, zoom=3, max_size=90), 0, (1.5, 64)),  # 60 x 90
        (InputConfig(min_size=0, zoom=3, max_size=90), 64, (3.0, 64)),  # a crop is not shrunk before it is cut out
    ],
)
def test_training_records_what_it_saw(tmp_path: Path, rule: InputConfig, crop: int, want: tuple[float, int]) -> None:
    """One image of twenty is much larger than the others, which does not matter."""
    scenes = {f"{i}.png": Scene((400, 600) if i == 7 else (40, 60), ()) for i in range(20)}
    dataset = read_dataset(write_coco(tmp_path, scenes))
    config = Config(ModelConfig(input=rule), TrainConfig(augment=AugmentConfig(crop=crop)))
    seen_in_training = with_seen(config, dataset).input
    assert (seen_in_training.seen_scale, seen_in_training.seen_side) == want
