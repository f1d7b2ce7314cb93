"""Every verb takes checkpoints of any origin: told by content, and by the names of releases."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrcnn.cli import main as cli
from maskrcnn.weights.checkpoint import Checkpoint, load_checkpoint
from maskrcnn.weights.interop.profiles import with_profile
from maskrcnn.weights.interop.write import write_foreign
from tests.scenes import CATEGORY_IDS, TWO_APART, write_coco
from tests.tiny import CATEGORIES, write_tiny_checkpoint

NAME = "torchvision:maskrcnn_resnet50_fpn"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKRCNN_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A checkpoint of torchvision, under a name that says nothing."""
    found = load_checkpoint(write_tiny_checkpoint(tmp_path / "tiny.safetensors"))
    anchors = replace(found.config.anchors, sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)))
    config = with_profile(replace(found.config, anchors=anchors), "torchvision")
    checkpoint = Checkpoint(config, CATEGORIES, found.state, {})
    write_foreign(tmp_path / "theirs.pth", checkpoint, "torchvision", force=True)  # which knows no such narrow network
    return (tmp_path / "theirs.pth").rename(tmp_path / "some.file")


def test_predict_and_evaluate_read_a_foreign_file(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_coco(tmp_path, {"a.png": TWO_APART})
    code, told, _ = run(capsys, "predict", theirs, tmp_path / "images", "--out", tmp_path / "out", "--save", "coco")
    assert (code, "1 image," in told) == (0, True)
    evaluate = ("evaluate", theirs, data, "--out", tmp_path / "measured", "--workers", "0")
    code, _, told = run(capsys, *evaluate)
    assert code == 2
    assert "'class-1', 'class-2', 'class-3' in the model" in told  # the file has no names, so none is matched
    data.write_text(data.read_text().replace(next(iter(CATEGORY_IDS)), "class-1"))
    code, told, _ = run(capsys, *evaluate)
    assert code == 0
    assert "class-2, class-3" in told


def test_info_tells_what_a_foreign_file_holds(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = run(capsys, "info", theirs)
    assert code == 0
    assert all(
        words in told for words in ("R-18-FPN", "3 classes, boxes and masks", "class-3", "origin       torchvision")
    )
    code, told, _ = run(capsys, "info", theirs, "--settings")
    assert (code, 'target = "soft"' in told) == (0, True)


def test_info_of_a_backbone_alone(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = "backbone.body."
    body = torch.load(theirs, weights_only=True)
    torch.save({name.removeprefix(prefix): body[name] for name in body if name.startswith(prefix)}, tmp_path / "r.pth")
    code, _, err = run(capsys, "info", tmp_path / "r.pth")
    assert (code, "width 8" in err) == (2, True)  # no model of that width is known
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    for verb in ("predict", "evaluate"):
        code, _, err = run(capsys, verb, tmp_path / "r.pth", tmp_path)
        assert (code, err.count("\n")) == (2, 1)
        assert "r.pth holds only a backbone: train --weights can start from it" in err


def test_info_of_a_release_downloads_nothing(
    theirs: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASKRCNN_OFFLINE")
    code, told, _ = run(capsys, "info", NAME)
    assert code == 0
    assert "box 37.9, mask 34.6" in told
    assert "not downloaded" in told
    assert "licence      not stated by torchvision" in told
    code, _, err = run(capsys, "info", NAME, "--settings")
    assert (code, "not downloaded" in err) == (2, True)
    place = cache / "torchvision" / "maskrcnn_resnet50_fpn.pth"
    place.parent.mkdir(parents=True)
    theirs.rename(place)
    code, told, _ = run(capsys, "info", NAME)
    assert code == 0
    assert all(words in told for words in ("box 37.9", str(place), "class-3", "release      torchvision:"))


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_release_that_is_not_there_says_which_file_to_put_where(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    code, _, err = run(capsys, verb, NAME, tmp_path)
    assert code == 2
    assert "put https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth at" in err
    code, _, err = run(capsys, verb, "detectron2:mask_rcnn_R_50_FPN_4x", tmp_path)
    assert (code, "detectron2:mask_rcnn_R_50_FPN_3x" in err) == (2, True)
