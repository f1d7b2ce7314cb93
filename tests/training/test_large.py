"""Training on crops, with validation images that are predicted in tiles, as `evaluate` predicts them afterwards."""

import json
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.weights.checkpoint import load_checkpoint
from tests.scenes import Scene, Thing, write_coco
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
