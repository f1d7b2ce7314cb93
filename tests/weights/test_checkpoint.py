"""Checkpoints: they come back as saved; every damage is one sentence, and never a silently different model."""

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from maskrcnn.categories import Category
from maskrcnn.config import preset
from maskrcnn.errors import CheckpointError
from maskrcnn.files import replacing
from maskrcnn.weights.checkpoint import Checkpoint, adopt, load_checkpoint, restore, save_checkpoint

CATEGORIES = (
    Category(3, "Möwe", shared=True),
    Category(7, "person", ("nose", "left eye", "right eye"), ((0, 1), (0, 2)), ((1, 2),), (0.026, 0.025, 0.025)),
)
CONFIG = replace(preset("R-18-FPN-tiny"), classes=2)


def make_state() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 3, 3, 3, generator=rng)
    return {
        "conv.weight": weight.to(memory_format=torch.channels_last),
        "conv.bias": torch.tensor([0.0, -0.0, float("inf"), float("nan")]),
        "half": torch.randn(5, generator=rng).bfloat16(),
        "steps": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
        "twin": weight[:2],
    }


def write(path: Path) -> Path:
    save_checkpoint(path, Checkpoint(CONFIG, CATEGORIES, make_state(), {"step": 12}))
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n].nan_to_num(nan=9.0), b[n].nan_to_num(nan=9.0)) for n in a
    )


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    loaded = load_checkpoint(write(tmp_path / "model.safetensors"))
    assert loaded.config == CONFIG
    assert loaded.categories == CATEGORIES
    assert loaded.provenance == {"step": 12}
    assert same(loaded.state, make_state())


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_every_setting_is_written(tmp_path: Path) -> None:
    raw = write(tmp_path / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    (text,) = json.loads(raw[8 : 8 + length])["__metadata__"].values()
    content = json.loads(json.loads(text)["content"])
    assert content["model"]["box_head"]["nms_iou"] == 0.5
    assert content["model"]["input"]["mean"] == [123.675, 116.28, 103.53]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors")
    before = path.read_bytes()
    with contextlib.suppress(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _truncate(path: Path) -> None:
    path.write_bytes(write(path).read_bytes()[:-10])


def _cut_header(path: Path) -> None:
    path.write_bytes(write(path).read_bytes()[:100])


def _foreign(path: Path) -> None:
    save_file({"x": torch.ones(2)}, path, metadata={"format": "pt"})


def _newer(path: Path) -> None:
    save_file({"x": torch.ones(2)}, path, metadata={"maskrcnn": '{"format": 9, "digest": "", "content": "{}"}'})


def _huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def _deep_header(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def _pickle(path: Path) -> None:
    torch.save({"x": torch.ones(2)}, path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncate, "damaged"),
        (_cut_header, "damaged"),
        (_foreign, "not one of ours"),
        (_newer, "has format 9; this release reads 2"),
        (_huge_header, "not a safetensors file"),
        (_deep_header, "damaged"),
        (_pickle, "not a safetensors file"),
        (lambda path: path.write_bytes(b""), "not a safetensors file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_name(
    tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "model.safetensors"
    spoil(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model.safetensors"
    raw = bytearray(write(path).read_bytes())
    raw = raw[: data.draw(st.integers(0, len(raw)), label="length")] if data.draw(st.booleans(), label="cut") else raw
    for _ in range(data.draw(st.integers(0, 3), label="flips")):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        loaded = load_checkpoint(path)
    except CheckpointError:
        return
    assert loaded.config == CONFIG
    assert loaded.categories == CATEGORIES
    assert same(loaded.state, make_state())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_an_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_tensors_that_do_not_fit_are_a_table_and_nothing_is_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {
        "0.weight": torch.ones(3, 2),
        "0.bias": torch.ones(4),
        "1.weight": torch.ones(1, 3),
        "extra": torch.ones(1),
    }
    with pytest.raises(CheckpointError) as caught:
        restore(model, state, "a.safetensors")
    text = " ".join(str(caught.value).split())
    assert "a.safetensors does not fit this model" in text
    assert "0.bias has shape [4], [3] expected" in text
    assert "1.bias missing, [1] expected" in text
    assert "extra not part of the model, [1]" in text
    assert same(before, model.state_dict())


class Small(nn.Module):
    """The parts that `adopt` tells apart: a stem, the rest of a backbone, a head."""

    def __init__(self, channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"stem": nn.ModuleDict({"conv": nn.Conv2d(channels, width, 1)}), "norm": nn.BatchNorm2d(width)}
        )
        self.head = nn.Linear(width, 2)


def test_adopt_takes_what_fits_and_names_the_rest() -> None:
    state = {name: torch.ones_like(tensor) for name, tensor in Small().state_dict().items()}
    del state["backbone.norm.num_batches_tracked"]  # frozen norms have none
    model, wider = Small(), Small(channels=5)
    norm: Any = model.backbone["norm"]
    assert adopt(model, {**state, "head.weight": torch.ones(9, 4), "other": torch.ones(1)}, "a") == ["head.weight"]
    assert bool((norm.weight == 1).all())
    assert adopt(wider, state, "a") == ["backbone.stem.conv.weight"]


def test_adopt_refuses_another_backbone_with_a_table() -> None:
    model = Small(width=8)
    before = model.state_dict()["head.bias"].clone()
    state = {**Small().state_dict(), "backbone.more": torch.ones(1)}
    del state["backbone.norm.bias"]
    with pytest.raises(CheckpointError) as caught:
        adopt(model, state, "a.pth")
    lines = [line.split()[:3] for line in str(caught.value).splitlines()]
    assert "a.pth does not fit this model" in str(caught.value)
    assert ["backbone.norm.weight", "has", "shape"] in lines
    assert ["backbone.norm.bias", "missing,", "[8]"] in lines
    assert ["backbone.more", "not", "part"] in lines
    assert torch.equal(model.state_dict()["head.bias"], before)
