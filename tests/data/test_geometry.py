"""Boxes and areas of masks that nobody drew: by hand, and as pycocotools has them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from maskrcnn.data.formats import read_dataset
from maskrcnn.data.geometry import polygon_measures, rle_measures
from maskrcnn.data.validate import decode_counts
from tests.data.coco_files import COMPRESSED, COUNTS, SQUARE, coco, write


@settings(max_examples=60)
@given(st.data())
def test_compressed_counts_are_decoded_as_pycocotools_does(data) -> None:
    bitmaps = []
    for _ in range(data.draw(st.integers(1, 4))):
        height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 300))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        bitmaps.append(rng.random((height, width)) < data.draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0])))
    encoded = [mask_api.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
    strings: Any = [code["counts"] for code in encoded]
    offsets = np.cumsum([0, *map(len, strings)])
    counts, lengths, readable = decode_counts(np.frombuffer(b"".join(strings), np.uint8), offsets)
    assert readable.all()
    bounds = np.cumsum([0, *lengths])
    spans = np.stack([bounds[:-1], bounds[1:]], axis=1)
    sizes = np.array([bitmap.shape for bitmap in bitmaps])
    fits, boxes, areas = rle_measures(counts, spans, sizes)
    assert fits.all()
    for bitmap, code, (first, last), box, area in zip(bitmaps, encoded, spans, boxes, areas, strict=True):
        flat = np.repeat(np.arange(last - first) % 2 == 1, counts[first:last])
        np.testing.assert_array_equal(flat.reshape(bitmap.shape[::-1]).T, bitmap)
        assert area == bitmap.sum()
        if area:
            ys, xs = np.nonzero(bitmap)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert code["size"] == list(bitmap.shape)


def test_a_string_that_cannot_be_read_leaves_the_others_alone() -> None:
    good = COMPRESSED.encode()
    strings = [good, good + b"o", b"o" * 99 + b"0", good, b"7%!", good, good[:-1]]
    counts, lengths, readable = decode_counts(
        np.frombuffer(b"".join(strings), np.uint8), np.cumsum([0, *map(len, strings)])
    )
    assert readable.tolist() == [True, False, False, True, False, True, False]
    parts = np.split(counts, np.cumsum(lengths)[:-1])
    assert [parts[i].tolist() for i in (0, 3, 5)] == [COUNTS] * 3


@pytest.mark.parametrize("chunk", [1, 10, 40])
def test_masks_are_measured_in_pieces(chunk, monkeypatch, tmp_path) -> None:
    masks = [[SQUARE], {"size": [10, 12], "counts": COMPRESSED}, {"size": [10, 12], "counts": COUNTS}, [SQUARE, SQUARE]]
    masks.insert(2, {"size": [10, 12], "counts": COMPRESSED + "o"})
    annotations = [{"image_id": 3, "category_id": 0, "id": i, "segmentation": masks[i % 5]} for i in range(1, 31)]
    monkeypatch.setattr("maskrcnn.data.validate._CHUNK", chunk)
    data = read_dataset(write(tmp_path, coco(annotations=annotations)))
    assert len(data.objects.ids) == 24
    np.testing.assert_array_equal(data.objects.boxes, [[2, 3, 8, 7]] * 24)
    assert data.objects.areas.tolist() == [24, 24, 48, 24] * 6
    assert [p.annotation_id for p in data.report.problems] == [2, 7, 12, 17, 22, 27]


def test_polygon_measures_by_hand() -> None:
    points = np.array([[0, 0], [4, 0], [4, 3], [0, 0], [2, 2], [2, 0], [0, 2], [1, 1], [2, 2], [9, 9]], np.float64)
    sensible, boxes, areas = polygon_measures(points, np.array([0, 3, 7, 10]), 1e6)
    assert sensible.all()
    assert boxes[0].tolist() == [0, 0, 4, 3]
    assert areas[0] == 6
    assert areas[1] > 0  # a bow tie, whose halves would cancel
    assert areas[2] == 0  # a line
