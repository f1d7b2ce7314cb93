"""Runs of pixels against bitmaps: every operation is what NumPy does with whole bitmaps."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskrcnn.ops import rle, runs
from maskrcnn.ops.nearby import overlapping

SIZE = (6, 5)
BITMAPS = arrays(bool, st.tuples(st.integers(1, 4), st.just(SIZE[0]), st.just(SIZE[1])))
steady = settings(max_examples=150)


def bitmaps_of(found: runs.Runs, size: tuple[int, int]) -> np.ndarray:
    """bool [N H W], pixel by pixel."""
    drawn = np.zeros((len(found), size[0] * size[1]), dtype=bool)
    for n in range(len(found)):
        for run in range(found.offsets[n], found.offsets[n + 1]):
            assert not drawn[n, found.starts[run] : found.ends[run]].any()
            drawn[n, found.starts[run] : found.ends[run]] = True
    return drawn.reshape(-1, size[1], size[0]).swapaxes(1, 2)


@given(BITMAPS)
@steady
def test_codes_become_runs_and_codes_again(bitmaps: np.ndarray) -> None:
    codes = [rle.string_from_counts(rle.counts_from_bitmap(bitmap)) for bitmap in bitmaps]
    found = runs.decode(codes)
    np.testing.assert_array_equal(bitmaps_of(found, SIZE), bitmaps)
    np.testing.assert_array_equal(found.areas, bitmaps.sum(axis=(1, 2)))
    assert runs.encode(found, SIZE) == codes
    in_columns = runs.move(found, SIZE[0], SIZE[0], (0, 0))
    assert runs.encode(in_columns, SIZE) == codes  # runs of neighbouring columns are joined again
    np.testing.assert_array_equal(bitmaps_of(runs.from_bitmaps(list(bitmaps)), SIZE), bitmaps)


def test_a_code_that_is_none_is_refused() -> None:
    for code in (b"", b"\x00\x01", b"o"):
        with pytest.raises(ValueError, match="RLE"):
            runs.decode([code])


@given(BITMAPS, st.integers(0, 3), st.integers(0, 3))
@steady
def test_a_window_moves_to_its_place(bitmaps: np.ndarray, top: int, left: int) -> None:
    large = (SIZE[0] + 3, SIZE[1] + 3)
    moved = runs.move(runs.from_bitmaps(list(bitmaps)), SIZE[0], large[0], (top, left))
    want = np.zeros((len(bitmaps), *large), dtype=bool)
    want[:, top : top + SIZE[0], left : left + SIZE[1]] = bitmaps
    np.testing.assert_array_equal(bitmaps_of(moved, large), want)
    assert (moved.starts // large[0] == (moved.ends - 1) // large[0]).all()


@given(BITMAPS, BITMAPS)
@steady
def test_shared_pixels_and_unions(first: np.ndarray, second: np.ndarray) -> None:
    a, b = runs.from_bitmaps(list(first)), runs.from_bitmaps(list(second))
    left, right = (axis.ravel() for axis in np.meshgrid(np.arange(len(first)), np.arange(len(second))))
    want = [(first[i] & second[j]).sum() for i, j in zip(left, right, strict=True)]
    np.testing.assert_array_equal(runs.shared(a, b, left, right), want)
    both = runs.concatenate([a, b])
    groups = np.arange(len(both)) % 3
    united = runs.union(both, groups, 4)  # the last group is empty
    every = np.concatenate([first, second])
    want = np.array([every[groups == group].any(axis=0) for group in range(4)])
    np.testing.assert_array_equal(bitmaps_of(united, SIZE), want)
    chosen = np.array([len(both) - 1, 0, 0])
    np.testing.assert_array_equal(bitmaps_of(runs.select(both, chosen), SIZE), every[chosen])


@given(BITMAPS, st.data())
@steady
def test_pixels_inside_windows_and_tight_boxes(bitmaps: np.ndarray, data: Any) -> None:
    found = runs.move(runs.from_bitmaps(list(bitmaps)), SIZE[0], SIZE[0], (0, 0))
    x1, y1 = data.draw(st.integers(-1, SIZE[1])), data.draw(st.integers(-1, SIZE[0]))
    x2, y2 = data.draw(st.integers(x1, SIZE[1] + 1)), data.draw(st.integers(y1, SIZE[0] + 1))
    windows = np.tile([x1, y1, x2, y2], (len(bitmaps), 1))
    part = bitmaps[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    np.testing.assert_array_equal(runs.inside(found, np.arange(len(bitmaps)), windows, SIZE[0]), part.sum(axis=(1, 2)))
    for n, (bitmap, box) in enumerate(
        zip(bitmaps, runs.bounds(runs.from_bitmaps(list(bitmaps)), np.full(len(bitmaps), SIZE[0])), strict=True)
    ):
        y, x = np.nonzero(bitmap)
        assert box.tolist() == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])
        tight, (top, left) = runs.bitmap(found, n, SIZE[0])
        np.testing.assert_array_equal(tight, bitmap[box[1] : box[3], box[0] : box[2]])
        assert (left, top) == tuple(box[:2]) or not len(x)


def test_nothing_stays_nothing() -> None:
    none = runs.decode([])
    assert len(none) == len(runs.concatenate([])) == len(runs.union(none, np.zeros(0, np.int64), 0)) == 0
    assert runs.encode(none, SIZE) == []
    assert runs.encode(runs.from_bitmaps([np.zeros(SIZE, bool)]), SIZE) == [rle.string_from_counts([30])]
    assert runs.shared(none, none, np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


BOX = st.tuples(*[st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([0, 1, 3, 9, 70])], st.integers(0, 9))


@given(st.lists(BOX, max_size=12), st.lists(BOX, max_size=12))
@steady
def test_overlapping_boxes_are_found_once(first: list[tuple], second: list[tuple]) -> None:
    a, b = (
        np.array([(x / 2, y / 2, (x + w) / 2, (y + h) / 2) for x, y, w, h in side], dtype=np.float32).reshape(-1, 4)
        for side in (first, second)
    )
    groups = np.arange(len(a)) % 2, np.arange(len(b)) % 2
    for grouped in (False, True):
        want = [
            (i, j)
            for i in range(len(a))
            for j in range(len(b))
            if (np.maximum(a[i, :2], b[j, :2]) < np.minimum(a[i, 2:], b[j, 2:])).all()
            and (not grouped or i % 2 == j % 2)
        ]
        left, right = overlapping(a, b, *(groups if grouped else ()))
        assert list(zip(left.tolist(), right.tolist(), strict=True)) == want
