"""Outlines and RLEs on a grid: answers by hand, kernels against the reference, and pycocotools to compare with."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.ops.dispatch import implementations, recorded_paths
from maskrcnn.ops.paste import paste
from maskrcnn.ops.rasterize import polygon_box, rasterize_polygons, rasterize_rle, rle_box

IMPLS = implementations("rasterize")
SQUARE = np.array([[2.0, 2.0], [5.0, 2.0], [5.0, 5.0], [2.0, 5.0]])
WHOLE = (0.0, 0.0, 8.0, 8.0)  # an 8 x 8 grid on this frame has its centres at pixel centres


def rectangle(x1, y1, x2, y2):
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)


def filled(rows, columns, size=8):
    mask = np.zeros((size, size), dtype=bool)
    mask[rows, columns] = True
    return mask


POLYGONS = {
    "nothing": ([], filled([], [])),
    "whole pixels": ([SQUARE], filled(slice(2, 5), slice(2, 5))),
    "other way round": ([SQUARE[::-1]], filled(slice(2, 5), slice(2, 5))),
    "repeated end": ([np.concatenate([SQUARE, SQUARE[:1]])], filled(slice(2, 5), slice(2, 5))),
    "edges through centres": ([SQUARE + 0.5], filled(slice(2, 5), slice(2, 5))),
    "beyond the frame": ([rectangle(-2, -2, 3, 3)], filled(slice(0, 3), slice(0, 3))),
    "beyond its end": ([rectangle(5, 5, 12, 12)], filled(slice(5, 8), slice(5, 8))),
    "around the frame": ([rectangle(-9, -9, 99, 99)], np.ones((8, 8), dtype=bool)),
    "between centres": ([rectangle(2.6, 2.6, 3.0, 3.0)], filled([], [])),
    "union": ([SQUARE, rectangle(4, 2, 7, 5)], filled(slice(2, 5), slice(2, 7))),
    "a line": ([np.array([[1.0, 1.0], [6.0, 6.0]])], filled([], [])),
    "one point": ([np.array([[1.5, 1.5]])], filled([], [])),
    "twice around": ([np.concatenate([SQUARE, SQUARE])], filled(slice(2, 5), slice(2, 5))),
    "bow tie": ([np.array([[0.0, 0.0], [8.0, 8.0], [8.0, 0.0], [0.0, 8.0]])], None),
    "triangle": ([np.array([[1.0, 1.0], [6.0, 1.0], [1.0, 6.0]])], None),
}  # fmt: skip


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_give_the_known_answer(name, impl) -> None:
    polygons, answer = POLYGONS[name]
    with recorded_paths() as paths:
        got = rasterize_polygons(polygons, WHOLE, 8, impl=impl)
    assert paths == [f"rasterize:{impl}"]
    assert got.dtype == bool
    if name == "bow tie":  # the left and the right wing; the diagonals may belong to either side
        y, x = np.mgrid[:8, :8]
        wings = (x >= y) & (x >= 7 - y) | (x < y) & (x < 7 - y)
        assert (got ^ wings).sum() <= 8
        assert got[3, 0]
        assert got[3, 7]
        assert not got[0, 3]
    elif name == "triangle":
        answer = np.zeros((8, 8), dtype=bool)
        for row in range(1, 5):
            answer[row, 1 : 6 - row] = True  # centres with x + y < 7
        np.testing.assert_array_equal(got, answer)
    else:
        np.testing.assert_array_equal(got, answer)


@pytest.mark.parametrize("impl", IMPLS)
def test_neighbours_share_no_cell_and_leave_no_gap(impl) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        middle = rng.integers(0, 17, size=2) / 2  # on centres and on borders of pixels
        corners = [np.array(p, dtype=np.float64) for p in ((0, 0), (8, 0), (8, 8), (0, 8))]
        parts = [np.stack([corners[i], corners[(i + 1) % 4], middle]) for i in range(4)]
        total = sum(rasterize_polygons([p], WHOLE, 8, impl=impl).astype(int) for p in parts)
        np.testing.assert_array_equal(total, np.ones((8, 8)))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_frame_cuts_and_enlarges(impl) -> None:
    got = rasterize_polygons([SQUARE], (4.0, 4.0, 6.0, 6.0), 4, impl=impl)  # half-pixel cells
    np.testing.assert_array_equal(got, filled(slice(0, 2), slice(0, 2), 4))
    assert not rasterize_polygons([SQUARE], (4.0, 4.0, 4.0, 6.0), 4, impl=impl).any()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_mirrored_frame_gives_the_mirrored_mask(impl) -> None:
    outline = np.array([[1.2, 0.7], [6.9, 2.1], [3.3, 7.4]])
    straight = rasterize_polygons([outline], WHOLE, 16, impl=impl)
    np.testing.assert_array_equal(rasterize_polygons([outline], (8.0, 0.0, 0.0, 8.0), 16, impl=impl), straight[:, ::-1])
    np.testing.assert_array_equal(rasterize_polygons([outline], (0.0, 8.0, 8.0, 0.0), 16, impl=impl), straight[::-1])
    counts = np.array([9, 6, 10, 3, 36], dtype=np.uint32)
    straight = rasterize_rle(counts, (8, 8), WHOLE, 16, impl=impl)
    assert straight.any()
    np.testing.assert_array_equal(
        rasterize_rle(counts, (8, 8), (8.0, 8.0, 0.0, 0.0), 16, impl=impl), straight[::-1, ::-1]
    )


coordinate = st.one_of(st.integers(-8, 24).map(lambda i: i / 2), st.floats(-5, 12, allow_subnormal=True))
outline = st.lists(st.tuples(coordinate, coordinate), max_size=9).map(
    lambda p: np.array(p, dtype=np.float64).reshape(-1, 2)
)
frame = st.tuples(coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=150)
@given(st.lists(outline, max_size=3), frame, st.integers(1, 20))
def test_every_implementation_rasterizes_alike(polygons, frame, size) -> None:
    answer = rasterize_polygons(polygons, frame, size, impl="reference")
    for impl in IMPLS:
        np.testing.assert_array_equal(rasterize_polygons(polygons, frame, size, impl=impl), answer)


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), frame, st.integers(1, 20))
def test_an_rle_is_sampled_like_its_bitmap(seed, height, width, frame, size) -> None:
    bitmap = np.random.default_rng(seed).random((height, width)) < 0.5
    counts = runs_of(bitmap)
    x = frame[0] + (np.arange(size) + 0.5) * ((frame[2] - frame[0]) / size)
    y = frame[1] + (np.arange(size) + 0.5) * ((frame[3] - frame[1]) / size)
    answer = np.zeros((size, size), dtype=bool)
    for i in range(size):
        for j in range(size):
            if 0 <= x[j] < width and 0 <= y[i] < height and frame[0] != frame[2] and frame[1] != frame[3]:
                answer[i, j] = bitmap[int(y[i]), int(x[j])]
    for impl in IMPLS:
        with recorded_paths() as paths:
            got = rasterize_rle(counts, (height, width), frame, size, impl=impl)
        assert paths == [f"rasterize:{impl}"]
        np.testing.assert_array_equal(got, answer)


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_runs_and_a_short_rle_are_background(impl) -> None:
    counts = np.array([0, 0, 3, 0, 0, 2], dtype=np.uint32)  # three of background, two set, no word on the rest
    got = rasterize_rle(counts, (4, 4), (0.0, 0.0, 4.0, 4.0), 4, impl=impl)
    answer = np.zeros((4, 4), dtype=bool)
    answer[3, 0] = answer[0, 1] = True
    np.testing.assert_array_equal(got, answer)
    assert not rasterize_rle(np.zeros(0, np.uint32), (4, 4), (0.0, 0.0, 4.0, 4.0), 4, impl=impl).any()


def test_the_cost_of_an_rle_grows_with_its_runs_not_its_pixels() -> None:
    counts = np.array([0, 2**31, 0], dtype=np.uint32)
    assert rasterize_rle(counts, (65536, 65535), (0.0, 0.0, 65535.0, 65536.0), 8)[:, :4].all()


@pytest.mark.parametrize("impl", IMPLS)
def test_impossible_numbers_are_refused(impl) -> None:
    with pytest.raises(ValueError, match="finite"):
        rasterize_polygons([np.array([[0.0, 0.0], [np.nan, 1.0], [2.0, 2.0]])], WHOLE, 8, impl=impl)
    with pytest.raises(ValueError, match="frame"):
        rasterize_polygons([SQUARE], (0.0, 0.0, np.inf, 1.0), 8, impl=impl)
    with pytest.raises(ValueError, match=r"\[n 2\]"):
        rasterize_polygons([np.zeros(6)], WHOLE, 8, impl=impl)


def test_boxes_of_outlines() -> None:
    np.testing.assert_array_equal(polygon_box([SQUARE, rectangle(4, 3, 7, 6)]), [2, 2, 7, 6])
    np.testing.assert_array_equal(polygon_box([]), [0, 0, 0, 0])


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.03, 0.5, 1.0]))
def test_boxes_of_rles_agree_with_pycocotools(seed, height, width, density) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    bitmap = np.random.default_rng(seed).random((height, width)) < density
    rle = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    x, y, w, h = coco.toBbox(rle)
    counts = runs_of(bitmap)
    np.testing.assert_array_equal(rle_box(counts, (height, width)), [x, y, x + w, y + h])


@pytest.mark.skipif(not hasattr(os, "fork") or "numba" not in IMPLS, reason="needs fork and numba")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_forked_after_a_parallel_kernel_still_rasterizes() -> None:
    """Numba's threads do not survive a fork: a parallel kernel would kill or hang the child."""
    paste(torch.ones(2, 4, 4), torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 2), (8, 8), impl="numba")
    child = os.fork()
    if child == 0:
        try:
            alive = rasterize_polygons([SQUARE], WHOLE, 8, impl="numba").sum() == 9
        finally:
            os._exit(0 if alive else 1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the worker hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def runs_of(bitmap):
    """Run lengths down the columns, background first, counted one pixel at a time."""
    counts, value = [0], False
    for pixel in bitmap.T.ravel():
        if pixel != value:
            counts.append(0)
            value = bool(pixel)
        counts[-1] += 1
    return np.array(counts, dtype=np.uint32)
