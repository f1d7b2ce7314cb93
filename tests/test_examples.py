"""The examples run, and what they make can be loaded with their parts only."""

import runpy
from pathlib import Path

import pytest
import torch

import maskrcnn
from maskrcnn.config import preset
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.model.build import build
from maskrcnn.model.parts import Parts
from maskrcnn.weights.checkpoint import load_checkpoint
from maskrcnn.weights.interop.write import to_foreign

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["own_backbone", "own_head", "own_loss"])
def test_an_example_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 80
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    checkpoint = example["main"](tmp_path)
    assert capsys.readouterr().out.count(" objects\n") == 5
    ((part, function),) = example["PARTS"].names.items()
    assert load_checkpoint(checkpoint).provenance["parts"] == {part: function}
    if name == "own_loss":
        return
    with pytest.raises(CheckpointError, match=rf"own: {part} \({function}\); pass .*parts=maskrcnn\.Parts\({part}="):
        maskrcnn.load(checkpoint)
    with pytest.raises(ConfigError, match=f"no place for parts of the model's author's own: {part}"):
        to_foreign(load_checkpoint(checkpoint), "torchvision")


def test_an_own_loss_with_weights_learns_them_and_a_prediction_needs_none() -> None:
    class Weighted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

    model = build(preset("R-18-FPN-tiny"), parts=Parts(box_loss=Weighted()))
    assert "box_loss.weight" in model.state_dict()
    assert isinstance(model.box_loss, Weighted)


def test_a_backbone_says_what_its_maps_are() -> None:
    def silent(config: maskrcnn.ModelConfig) -> torch.nn.Module:
        return torch.nn.Conv2d(3, 8, 3)

    with pytest.raises(ConfigError, match=r"silent makes needs the attributes channels and strides"):
        build(preset("R-18-FPN-tiny"), parts=Parts(backbone=silent))
