"""Interpolation between rows and columns: an answer by hand, and all implementations equal to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.ops.dispatch import implementations, recorded_paths
from maskrcnn.ops.grids import Axis
from maskrcnn.ops.interpolate import interpolate

IMPLS = implementations("interpolate")


def axis(*points: tuple[int, int, float]) -> Axis:
    low, high, share = zip(*points, strict=True) if points else ((), (), ())
    return Axis(np.array(low, np.intp), np.array(high, np.intp), np.array(share, np.float32))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_known_answer(impl: str, dtype: type) -> None:
    array = np.array([[[0, 100], [10, 110]], [[20, 120], [50, 250]]], dtype)
    with recorded_paths() as paths:
        got = interpolate(array, axis((0, 1, 0.5), (1, 1, 0.0)), axis((0, 1, 0.25), (1, 1, 0.5)), impl=impl)
    assert paths == [f"interpolate:{impl}"]
    # Row 0.5 is 10, 110 and 30, 180; row 1 is 20, 120 and 50, 250.
    assert got.tolist() == [[[15, 127.5], [30, 180]], [[27.5, 152.5], [50, 250]]]


@pytest.mark.parametrize("impl", IMPLS)
def test_it_writes_into_out_and_nowhere_else(impl: str, rng: np.random.Generator) -> None:
    array = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)[:, ::-1]
    rows, columns = axis((1, 2, 0.5), (3, 4, 0.25)), axis((0, 1, 0.0), (2, 3, 0.75), (5, 5, 0.0))
    canvas = np.full((4, 5, 3), np.float32(-1))
    part = canvas[:2, :3]
    assert interpolate(array, rows, columns, out=part, impl=impl) is part
    np.testing.assert_array_equal(part, interpolate(array, rows, columns, impl=impl))
    assert (canvas[2:] == -1).all()
    assert (canvas[:, 3:] == -1).all()
    assert interpolate(array, axis(), axis(), impl=impl).shape == (0, 0, 3)
    with pytest.raises(ValueError, match=r"out is float32 \[4, 5, 3\]"):
        interpolate(array, rows, columns, out=canvas, impl=impl)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_all_implementations_are_equal_to_the_last_bit(seed: int, height: int, width: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)

    def points(count: int, sides: int) -> Axis:
        low = np.sort(rng.integers(0, sides, count))
        return Axis(low, np.minimum(low + 1, sides - 1), rng.random(count, np.float32))

    rows, columns = points(7, height), points(9, width)
    answers = [interpolate(array, rows, columns, impl=impl) for impl in IMPLS]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
