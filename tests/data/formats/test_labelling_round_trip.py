"""What the writers of labelling tools write comes back: masks pixel for pixel, boxes, crowds."""

import pytest
from hypothesis import given, settings

from tests.data.formats.round_trip import (
    HOLE,
    ISLAND,
    PARTS,
    Drawn,
    comes_back,
    mask_of,
    record_of,
    records_of,
    scenes,
)

pytestmark = pytest.mark.parametrize("format", ["labelme", "via", "labelstudio"])


@settings(max_examples=30)
@given(scene=scenes())
def test_what_is_written_comes_back(tmp_path_factory, format, scene) -> None:
    comes_back(format, records_of(scene, tmp_path_factory.getbasetemp() / "images"))


@pytest.mark.parametrize("bitmap", [HOLE, ISLAND, PARTS, ~PARTS], ids=["hole", "island", "parts", "rest"])
def test_holes_and_parts_come_back(tmp_path, format, bitmap) -> None:
    comes_back(format, [record_of(tmp_path, "a.png", bitmap.shape, [Drawn(1, mask_of(bitmap), crowd=True)])])
