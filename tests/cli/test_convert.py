"""`maskrcnn convert`: in and out, and what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main as cli
from maskrcnn.weights.checkpoint import load_checkpoint, save_checkpoint
from maskrcnn.weights.interop.profiles import with_profile
from tests.tiny import CATEGORIES, write_tiny_checkpoint


def run(*arguments: object) -> int:
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A small checkpoint with the settings of torchvision."""
    found = load_checkpoint(write_tiny_checkpoint(tmp_path / "tiny.safetensors"))
    config = replace(
        found.config, anchors=replace(found.config.anchors, sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)))
    )
    config = with_profile(config, "torchvision")
    save_checkpoint(tmp_path / "ours.safetensors", found._replace(config=config, categories=CATEGORIES, provenance={}))
    return tmp_path / "ours.safetensors"


def test_there_and_back(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", ours, tmp_path / "theirs.pth", "--to", "torchvision", "--force") == 0
    assert "num_classes" in capsys.readouterr().out
    names = ",".join(category.name for category in CATEGORIES)
    assert run("convert", tmp_path / "theirs.pth", tmp_path / "back.safetensors", "--classes", names) == 0
    assert "settings of torchvision" in capsys.readouterr().out
    before, after = load_checkpoint(ours), load_checkpoint(tmp_path / "back.safetensors")
    assert [category.name for category in after.categories] == [category.name for category in CATEGORIES]
    assert before.state.keys() == after.state.keys()
    assert all(torch.equal(before.state[name], after.state[name]) for name in before.state)
    assert after.provenance["origin"] == "torchvision"


def test_names_of_classes_from_a_file_and_a_setting(ours: Path, tmp_path: Path) -> None:
    run("convert", ours, tmp_path / "theirs.pth", "--to", "torchvision", "--force")
    (tmp_path / "names.txt").write_text("a\nb\n\nc\n")
    arguments = ("--classes", tmp_path / "names.txt", "--set", "box_head.max_detections=7")
    assert run("convert", tmp_path / "theirs.pth", tmp_path / "back.safetensors", *arguments) == 0
    got = load_checkpoint(tmp_path / "back.safetensors")
    assert [category.name for category in got.categories] == ["a", "b", "c"]
    assert got.config.box_head.max_detections == 7


def test_names_that_are_longer_than_a_file_name_may_be(ours: Path, tmp_path: Path) -> None:
    run("convert", ours, tmp_path / "theirs.pth", "--to", "torchvision", "--force")
    names = [letter * 100 for letter in "abc"]
    assert run("convert", tmp_path / "theirs.pth", tmp_path / "b.safetensors", "--classes", ",".join(names)) == 0
    assert [category.name for category in load_checkpoint(tmp_path / "b.safetensors").categories] == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["theirs.bin"], "*.safetensors"),
        (["theirs.pth", "--to", "keras"], "not for 'keras'"),
        (["theirs.pkl", "--to", "torchvision"], "*.pth or *.pt"),
        (["theirs.pth", "--to", "detectron2"], "detectron2 cannot express"),
    ],
)
def test_what_cannot_be_done_is_two(
    arguments: list[str], message: str, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", ours, tmp_path / arguments[0], *arguments[1:]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / arguments[0]).exists()


def test_offline_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    name = "torchvision:maskrcnn_resnet50_fpn"
    assert run("convert", name, tmp_path / "a.safetensors", "--offline") == 2
    assert "put https://download.pytorch.org" in capsys.readouterr().err
