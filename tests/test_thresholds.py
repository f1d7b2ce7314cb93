"""From which score objects count: chosen in training, kept by the checkpoint, used by every way to predict."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maskrcnn import CheckpointError, ConfigError, Predictor, load
from maskrcnn.config import TTA
from maskrcnn.model.build import build
from maskrcnn.results import Result
from maskrcnn.saving import Saver
from maskrcnn.weights.checkpoint import load_checkpoint, save_checkpoint
from maskrcnn.weights.header import read_header
from tests.scenes import TWO_APART
from tests.tiny import CATEGORIES, tiny_config, write_tiny_checkpoint

IDS = [category.id for category in CATEGORIES]
WAYS = {"whole": {}, "tta": {"tta": TTA((1.0, 0.5))}, "tiles": {"tile": 64}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(write_tiny_checkpoint(tmp_path_factory.mktemp("thresholds") / "model.safetensors"), device="cpu")


def seen(predictor: Predictor, **options: object) -> Result:
    return next(predictor.predict(TWO_APART.pixels, precision="fp32", **options))  # type: ignore[arg-type]


def reaching(result: Result, thresholds: tuple[float, ...]) -> Result:
    least = dict(zip(IDS, thresholds, strict=True))
    return result.select(np.array([s >= least[k] for s, k in zip(result.scores, result.labels, strict=True)]))


@pytest.mark.parametrize("way", WAYS)
def test_each_class_has_its_own_threshold(way: str, model: Predictor) -> None:
    """What is kept is what a generous model finds, without what is below; tiles are joined before that."""
    every = seen(model, score_threshold=0.05, max_detections=1000, **WAYS[way])
    middles = tuple(float(np.median(every.scores[every.labels == k])) if k in every.labels else 0.5 for k in IDS)
    want = reaching(every, middles)
    got = seen(Predictor(model.model, CATEGORIES, middles), max_detections=1000, **WAYS[way])
    assert 0 < len(want) < len(every)
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-5)
    np.testing.assert_allclose(got.boxes, want.boxes, atol=1e-2)
    assert got.thresholds == middles


@pytest.mark.parametrize("way", ["whole", "tta"])
def test_what_is_below_its_threshold_takes_no_place_of_the_most_detections(way: str, model: Predictor) -> None:
    every = seen(model, max_detections=model.config.rpn.post_nms_test, **WAYS[way])
    weakest = int(every.labels[-1])  # the class of the last one counts from 0.05; all others do not count
    thresholds = tuple(0.05 if k == weakest else 1.0 for k in IDS)
    want = reaching(every, thresholds)
    assert every.labels[0] != weakest
    got = seen(Predictor(model.model, CATEGORIES, thresholds), max_detections=2, **WAYS[way])
    np.testing.assert_allclose(got.scores, want.scores[:2], rtol=1e-5)


def test_a_number_is_the_least_score_of_every_class(model: Predictor) -> None:
    every = seen(model)
    at = float(every.scores[len(every) // 2])
    got = seen(model, score_threshold=at)
    assert got.scores.min() == np.float32(at)  # one that has it counts
    assert len(got) == int((every.scores >= at).sum())
    assert len(seen(model, score_threshold=str(at))) == len(got)  # as the command gives it
    for wrong in ("worst", "1.5", "nan"):
        with pytest.raises(ConfigError, match="score_threshold"):
            seen(model, score_threshold=wrong)


def test_a_model_that_nobody_evaluated_counts_from_a_half_and_says_so_once(
    model: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    unmeasured = Predictor(model.model, CATEGORIES)
    for _ in range(2):
        assert seen(unmeasured).thresholds == (0.5, 0.5, 0.5)
    assert caplog.text.count("objects count from a score of 0.5") == 1
    seen(model)
    assert len(caplog.records) == 1


def test_files_of_results_state_the_threshold(model: Predictor, tmp_path: Path) -> None:
    predictor = Predictor(model.model, CATEGORIES, (0.25, 0.05, 0.05))
    with Saver(tmp_path, ["coco", "coco-dataset", "csv"], CATEGORIES) as saver:
        saver.add(seen(predictor))
    stated = dict(zip(IDS, predictor.thresholds, strict=True))
    rows = json.loads((tmp_path / "results.json").read_text())
    assert rows
    assert all(
        row["score_threshold"] == dict(zip(IDS, predictor.thresholds, strict=True))[row["category_id"]] for row in rows
    )
    info = json.loads((tmp_path / "coco-dataset" / "annotations.json").read_text())["info"]
    assert info == {"score_thresholds": dict(zip((c.name for c in CATEGORIES), predictor.thresholds, strict=True))}
    head, first, *_ = (tmp_path / "objects.csv").read_text().splitlines()
    assert float(first.split(",")[head.split(",").index("score_threshold")]) in stated.values()


# --- the checkpoint --------------------------------------------------------------------------------------------------


def test_a_checkpoint_keeps_its_thresholds_and_may_lack_them(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "m.safetensors")
    found = load_checkpoint(path)
    for thresholds in ((0.123456789012345, 0.5, 1.0), ()):  # older files have none
        save_checkpoint(path, found._replace(thresholds=thresholds))
        assert load_checkpoint(path).thresholds == load(path).thresholds == thresholds
    for wrong in ((0.5,), (0.5, 0.5, 1.5), ("a", "b", "c")):
        save_checkpoint(path, found._replace(thresholds=wrong))
        with pytest.raises(CheckpointError, match=r"m\.safetensors.*(threshold|float)"):
            load_checkpoint(path)


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "gn"])
def test_the_header_knows_how_many_parameters_there_are(norm: str, tmp_path: Path) -> None:
    path, base = write_tiny_checkpoint(tmp_path / "m.safetensors"), tiny_config()
    config = replace(base, backbone=replace(base.backbone, norm=norm), fpn=replace(base.fpn, norm="bn"))
    model = build(config)
    save_checkpoint(path, load_checkpoint(path)._replace(config=config, state=model.state_dict()))
    header = read_header(path)
    assert header is not None
    assert header.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert header.described.config == config


def test_a_header_of_another_file_and_one_cut_short(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "theirs.safetensors")
    (tmp_path / "text.json").write_text("{}")
    assert read_header(tmp_path / "theirs.safetensors") is None
    assert read_header(tmp_path / "text.json") is None
    path = write_tiny_checkpoint(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"m\.safetensors is damaged"):
        read_header(path)


def test_info_of_a_file_imports_no_pytorch(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "m.safetensors")
    program = f"import sys; from maskrcnn.cli.info import info; info({str(path)!r}); print('torch' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert told.endswith("False\n")
    assert "objects count from 0.05" in told
    assert "box AP 0.250" in told
