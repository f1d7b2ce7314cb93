"""What a prediction costs: operations and memory by hand, and every stage once."""

import pytest

from maskrcnn.benchmark import WHOLE, benchmark, most_in_use
from maskrcnn.cli.benchmark import table
from maskrcnn.config import preset
from maskrcnn.errors import ConfigError


def test_every_stage_is_measured_and_operations_are_counted() -> None:
    costs = benchmark("R-18-FPN-tiny", size="64x96", batch=1, precision="fp32", rounds=1, device="cpu")
    stages = {stage.name: stage for stage in costs.stages}
    assert costs.about == "R-18-FPN-tiny, fp32 on cpu, 1 x 64x96 on a canvas of 64x96, at most 100 detections an image"
    assert {"resize and canvas", "backbone", "FPN", "RPN head", "box head", "mask head", "RLE"} <= stages.keys()
    whole = stages[WHOLE]
    assert sum(one.seconds for one in costs.stages) == pytest.approx(2 * whole.seconds, rel=1e-3)
    assert sum(one.flops for one in costs.stages) == 2 * whole.flops
    mask = preset("R-18-FPN-tiny").mask_head
    width, cells = mask.channels, 100 * 14 * 14
    convolutions, deconvolution, predictor = mask.convs * width * width * 9, width * width * 4, 4 * width
    assert stages["mask head"].flops == 2 * cells * (convolutions + deconvolution + predictor)
    assert (whole.memory or 0) >= 4 * cells * 4 * width  # what the deconvolution gives, float32
    lines = list(table(costs))
    assert len(lines) == 3 + len(costs.stages)
    assert lines[-2].split()[:1] + lines[-2].split()[2:3] == ["whole", "100%"]


def test_the_most_that_is_in_use_at_once() -> None:
    """100 bytes from 1 to 5, 50 from 2 to 3, 30 from 6 on."""
    changes = [(1, 100), (2, 50), (3, -50), (5, -100), (6, 30)]
    spans = [("a", 2, 4), ("b", 4, 7), ("c", 5, 6), ("a", 6, 7), ("whole", 0, 9)]
    assert most_in_use(changes, spans) == {"a": 150, "b": 100, "c": 100, "whole": 150}


@pytest.mark.parametrize("size", ["640", "axb", "0x64"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(ConfigError, match=r"size"):
        benchmark("R-18-FPN-tiny", size=size)
