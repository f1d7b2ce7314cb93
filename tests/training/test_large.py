"""Training on crops, with validation images that are predicted in tiles, as `evaluate` predicts them afterwards; on
images that are read in windows only; and on stacks, of which a page is seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import maskrcnn
from maskrcnn.canvas import chosen_page
from maskrcnn.cli.main import app
from maskrcnn.config import InputConfig
from maskrcnn.data.formats import read_dataset
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.weights.checkpoint import load_checkpoint
from tests.scenes import NONE, TWO_APART, Scene, Thing, write_coco
from tests.training.small import train_small

SMALL = Scene((64, 64), (Thing("brick", (10, 12, 42, 40)),))
LARGE = Scene((150, 170), (Thing("brick", (10, 20, 60, 50)), Thing("leaf", (90, 60, 150, 120))))


@pytest.mark.parametrize("small", [True, False], ids=["with a small image", "large images alone"])
def test_large_validation_images_are_seen_in_tiles(tmp_path: Path, small: bool) -> None:
    write_coco(tmp_path, {"1.png": SMALL, "2.png": SMALL})
    write_coco(tmp_path, {"3.png": LARGE, "4.png": LARGE, **({"5.png": SMALL} if small else {})}, "val.json")
    final = train_small(tmp_path, tmp_path / "run", "model.input.max_size=96", epochs=1)
    rule = load_checkpoint(final).config.input
    assert (rule.seen_scale, rule.seen_side) == (1.0, 64)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    again = maskrcnn.evaluate(final, tmp_path, precision="fp32", workers=0)
    assert again["box"] == pytest.approx(metrics["box"])
    assert again["predictions"] == metrics["predictions"]
    assert "images predicted in tiles: 2" in again["notes"]
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (evaluation,) = [record for record in records if record["kind"] == "evaluation"]
    assert (evaluation["loss"] is not None) == small


def as_tiffs(folder: Path, pages=lambda pixels: pixels, **options) -> None:
    """The images that `write_coco` wrote, as TIFFs in the same place under the same names."""
    tifffile = pytest.importorskip("tifffile")
    for path in (folder / "images").iterdir():
        pixels = np.asarray(Image.open(path))
        path.unlink()
        tifffile.imwrite(path, pages(pixels), photometric="rgb", **options)


def test_the_limit_of_pixels_is_that_of_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be decoded whole is checked, trained on and evaluated; a PNG is named and left out."""
    write_coco(tmp_path, {"1.png": LARGE, "2.png": SMALL})
    write_coco(tmp_path, {"1.png": LARGE}, "val.json")
    monkeypatch.setattr("maskrcnn.images.MAX_PIXELS", 120 * 120)
    monkeypatch.setattr("maskrcnn.data.image_rows.MAX_PIXELS", 120 * 120)
    monkeypatch.setattr("maskrcnn.images.tiff._LARGE", 0)
    monkeypatch.setattr("maskrcnn.images._SAMPLE", 64 * 64)
    data = read_dataset(tmp_path / "train.json")
    assert data.report.problems[0].reason == "too many pixels"
    assert "MAX_PIXELS" in data.report.problems[0].detail
    assert len(data) == 1
    as_tiffs(tmp_path, tile=(32, 32), compression="zlib")
    data = read_dataset(tmp_path / "train.json")
    assert (len(data), data.report.problems) == (2, [])
    told = CliRunner().invoke(app, ["check", str(tmp_path), "--verify", "--model", "R-18-FPN-tiny"])
    assert told.exit_code == 0, told.output
    assert "every image can be read" in told.output
    final = train_small(tmp_path, tmp_path / "run", "model.input.max_size=96", epochs=1)
    monkeypatch.setattr("maskrcnn.reports.mistakes._CROP", 100)
    metrics = maskrcnn.evaluate(final, tmp_path, precision="fp32", workers=0, out=tmp_path / "figures")
    assert not any("could not be read" in note for note in metrics["notes"])
    assert "images predicted in tiles: 1" in metrics["notes"]
    page = (tmp_path / "figures" / "report.html").read_text()
    assert "1.png: ground truth" in page
    assert "MAX_PIXELS" not in page
    with pytest.raises(DataError, match=r"images\.MAX_PIXELS; of a TIFF only parts are read with --tile"):
        maskrcnn.evaluate(final, tmp_path, workers=0, tile="off")


def test_of_stacks_a_page_is_seen(tmp_path: Path) -> None:
    """In training, evaluation and prediction; the model remembers which. Without a choice nothing begins."""
    for name in ("train.json", "val.json"):
        write_coco(tmp_path, {"1.png": SMALL, "2.png": TWO_APART, "3.png": NONE}, name)
    alone = train_small(tmp_path, tmp_path / "alone", epochs=1)
    as_tiffs(tmp_path, lambda pixels: np.stack([255 - pixels, pixels, pixels // 2]))
    with pytest.raises(DataError, match=r"a stack of 3 pages.*--set model\.input\.page=1"):
        train_small(tmp_path, tmp_path / "run")
    check = ["check", str(tmp_path), "--model", "R-18-FPN-tiny"]
    assert isinstance(CliRunner().invoke(app, check).exception, DataError)
    told = CliRunner().invoke(app, [*check, "--verify", "--set", "model.input.page=2"])
    assert told.exit_code == 0, told.output
    assert "every image can be read" in told.output
    final = train_small(tmp_path, tmp_path / "run", "model.input.page=2", epochs=1)
    run, other = load_checkpoint(final), load_checkpoint(alone)
    assert run.config.input.page == 2
    assert all((run.state[name] == other.state[name]).all() for name in run.state)  # it saw the same
    metrics = maskrcnn.evaluate(final, tmp_path, workers=0, precision="fp32", out=tmp_path / "figures")
    assert not any("could not be read" in note for note in metrics["notes"])
    assert "a stack of" not in (tmp_path / "figures" / "report.html").read_text()
    again = maskrcnn.evaluate(alone, tmp_path, workers=0, precision="fp32", page=2)
    assert metrics["box"] == again["box"]
    predictor, path = maskrcnn.load(final), tmp_path / "images" / "2.png"
    exact: Any = {"precision": "fp32", "score_threshold": 0.05}
    (seen,), (same,) = predictor.predict(path, **exact), predictor.predict(TWO_APART.pixels, **exact)
    assert seen.page == 2
    assert seen.to_coco("a") == same.to_coco("a")
    with pytest.raises(DataError, match="there is no page 4; it has 3; --page chooses another"):
        next(predictor.predict(path, page=4))


def test_which_page_is_chosen() -> None:
    """The user's word, else the one of training."""
    assert chosen_page(None, False, InputConfig()) is None
    assert chosen_page(None, False, InputConfig(page=2)) == 2
    assert chosen_page(None, False, InputConfig(page="max")) == "max"
    assert chosen_page(3, False, InputConfig(page="max")) == 3
    assert chosen_page(None, True, InputConfig(page=2)) == "max"
    for page, project in ((1, True), (0, False)):
        with pytest.raises(ConfigError, match="page counts from 1"):
            chosen_page(page, project, InputConfig())
