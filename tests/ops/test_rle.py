"""RLE: the bytes equal those of `paste` and pycocotools; the text form is fuzzed in both directions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from maskrcnn.ops.contour import signed_area
from maskrcnn.ops.dispatch import implementations, recorded_paths
from maskrcnn.ops.paste import RULES, paste
from maskrcnn.ops.rasterize import rasterize_polygons, rasterize_rle
from maskrcnn.ops.rle import counts_from_bitmap, encode, string_from_counts
from tests.ops.definitions import counts_from_string

IMPLS = implementations("rle")


@pytest.mark.parametrize("impl", IMPLS)
def test_encode_gives_the_known_answer(impl) -> None:
    """Four pixels, rows and columns 1 and 2 of a 5 x 6 image, lie at 6, 7, 11 and 12 down the columns."""
    with recorded_paths() as paths:
        (got,) = encode(torch.ones(1, 4, 4), torch.tensor([[1.0, 1.0, 3.0, 3.0]]), (5, 6), impl=impl)
    assert paths == [f"rle:{impl}"]
    assert got["size"] == [5, 6]
    assert counts_from_string(got["counts"]) == [6, 2, 3, 2, 17]
    assert got["counts"] == b"6230>"  # 6, 2, 3, 2 - 2, 17 - 3 in characters from '0' on


@pytest.mark.parametrize("impl", IMPLS)
def test_edges_of_the_image(impl) -> None:
    full = encode(torch.ones(1, 7, 7), torch.tensor([[0.0, 0.0, 9.0, 5.0]]), (5, 9), impl=impl)[0]
    assert counts_from_string(full["counts"]) == [0, 45]
    none = encode(torch.zeros(1, 7, 7), torch.tensor([[0.0, 0.0, 9.0, 5.0]]), (5, 9), impl=impl)[0]
    assert counts_from_string(none["counts"]) == [45]
    band = encode(torch.ones(1, 7, 7), torch.tensor([[3.0, 0.0, 6.0, 5.0]]), (5, 9), impl=impl)[0]
    assert counts_from_string(band["counts"]) == [15, 15, 15]
    lower = encode(torch.ones(1, 7, 7), torch.tensor([[7.0, 3.0, 9.0, 5.0]]), (5, 9), impl=impl)[0]
    assert counts_from_string(lower["counts"]) == [38, 2, 3, 2]
    assert encode(torch.zeros(0, 7, 7), torch.zeros(0, 4), (5, 9), impl=impl) == []


@st.composite
def scenes(draw):
    """Smooth and rough masks of all sides; boxes of all sizes anywhere, at half pixels so that values tie."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    M, H, W = draw(st.integers(1, 30)), draw(st.integers(1, 60)), draw(st.integers(1, 60))
    coarse = draw(st.sampled_from([2, 3, 6, 30]))
    masks = F.interpolate(torch.rand(3, 1, coarse, coarse, generator=rng), (M, M), mode="bilinear")[:, 0]
    masks[0] = (masks[0] > 0.5).float()
    side = st.one_of(st.integers(-40, 160).map(lambda i: i / 2), st.floats(-20, 80, width=32))
    boxes = torch.tensor([[draw(side) for _ in range(4)] for _ in range(3)], dtype=torch.float32)
    boxes[1:] = torch.cat([boxes[1:, :2].minimum(boxes[1:, 2:]), boxes[1:, :2].maximum(boxes[1:, 2:])], dim=1)
    return masks, boxes, (H, W)


@settings(max_examples=250)
@given(scenes(), st.sampled_from(RULES), st.sampled_from([0.5, 0.25]))
def test_encode_equals_pycocotools_of_paste_byte_for_byte(scene, rule, threshold) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    masks, boxes, size = scene
    bitmaps = paste(masks, boxes, size, rule=rule, threshold=threshold, impl="reference")
    answer = coco.encode(np.asfortranarray(bitmaps.permute(1, 2, 0).numpy().astype(np.uint8)))
    for impl in IMPLS:
        got = encode(masks, boxes, size, rule=rule, threshold=threshold, impl=impl)
        assert [row["counts"] for row in got] == [row["counts"] for row in answer]
        assert [row["size"] for row in got] == [list(row["size"]) for row in answer]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rule", RULES)
def test_a_large_image(rule, impl) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = torch.Generator().manual_seed(1)
    masks = F.interpolate(torch.rand(3, 1, 8, 8, generator=rng), (28, 28), mode="bicubic")[:, 0].clamp(0, 1)
    boxes = torch.tensor([[13.7, 20.1, 1180.3, 790.9], [0.0, 0.0, 1200.0, 800.0], [1100.2, 700.0, 1300.0, 900.0]])
    for n, got in enumerate(encode(masks, boxes, (800, 1200), rule=rule, impl=impl)):
        bitmap = paste(masks[n : n + 1], boxes[n : n + 1], (800, 1200), rule=rule)[0].numpy()
        assert got["counts"] == coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"]


@pytest.mark.parametrize("impl", IMPLS)
def test_neither_nan_nor_other_objects_change_an_rle(impl) -> None:
    masks, boxes = (
        torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(2)),
        torch.tensor([[2.0, 3.0, 19.0, 17.0]] * 3),
    )
    answer = encode(masks[:1], boxes[:1], (20, 22), impl=impl)[0]
    masks[1:], boxes[1], boxes[2] = float("nan"), float("nan"), float("inf")
    got = encode(masks, boxes, (20, 22), impl=impl)
    assert got[0] == answer
    assert counts_from_string(got[1]["counts"]) == [440]


lengths = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)), max_size=40)


@settings(max_examples=300)
@given(lengths)
def test_text_and_back(counts) -> None:
    assert counts_from_string(string_from_counts(np.array(counts, dtype=np.uint32))) == counts


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30))
def test_text_is_pycocotools_text(counts) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.frPyObjects({"size": [sum(counts), 1], "counts": counts}, sum(counts), 1)
    assert string_from_counts(np.array(counts)) == theirs["counts"]
    assert counts_from_string(theirs["counts"]) == counts


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_runs_of_a_bitmap(seed, height, width, density) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    bitmap = np.random.default_rng(seed).random((height, width)) < density
    counts = counts_from_bitmap(bitmap)
    assert counts.sum() == height * width
    assert string_from_counts(counts) == coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"]


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="run lengths"):
        string_from_counts([2**33])
    with pytest.raises(ValueError, match="100000 x 100000"):
        encode(torch.ones(1, 2, 2), torch.ones(1, 4), (100_000, 100_000))
    with pytest.raises(ValueError, match="height, width"):
        encode(torch.ones(1, 2, 2), torch.ones(1, 4), (-3, -4))


def test_pycocotools_draws_nearly_what_rasterize_draws() -> None:
    """Its rasteriser works on a grid five times finer: borders may differ by a pixel, interiors may not."""
    coco = pytest.importorskip("pycocotools.mask")
    angles = np.linspace(0, 2 * np.pi, 23, endpoint=False)
    outline = np.stack([32 + 24 * np.cos(angles), 32 + 17 * np.sin(angles)], axis=1)
    rle = coco.frPyObjects([outline.ravel().tolist()], 64, 64)[0]
    whole = (0.0, 0.0, 64.0, 64.0)
    theirs = rasterize_rle(np.array(counts_from_string(rle["counts"])), (64, 64), whole, 64)
    ours = rasterize_polygons([outline], whole, 64)
    assert (ours ^ theirs).sum() <= 0.04 * theirs.sum()
    assert ours.sum() == pytest.approx(signed_area(outline), rel=0.01)
