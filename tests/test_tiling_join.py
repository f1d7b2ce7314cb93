"""Joining over seams, on drawn cases: what each tile sees of the objects is known, and so is what must come out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.ops import runs
from maskrcnn.tiling import Pieces, Tiling, join_pieces

SIZE = (100, 100)
TILING = Tiling(side=60, overlap=20, scale=1.0)  # tiles begin at 0 and 40; what both see is 40 to 60


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    bitmap = np.zeros(size, dtype=bool)
    bitmap[y1:y2, x1:x2] = True
    return bitmap


class Seen:
    """The pieces that tiles see, added one by one."""

    def __init__(self, size: tuple[int, int] = SIZE, tiling: Tiling = TILING) -> None:
        self.size, self.tiling = size, tiling
        self.rows: list[tuple[np.ndarray, list[float], float, int, np.ndarray]] = []

    def add(self, tile: int, bitmap: np.ndarray, *, score: float = 0.9, label: int = 1) -> None:
        """What tile number `tile` sees of an object."""
        window = self.tiling.windows(self.size)[tile]
        x1, y1, x2, y2 = window.tolist()
        part = np.zeros(self.size, dtype=bool)
        part[y1:y2, x1:x2] = bitmap[y1:y2, x1:x2]
        if part.any():
            y, x = np.nonzero(part)
            box = [float(side) for side in (x.min(), y.min(), x.max() + 1, y.max() + 1)]
            self.rows.append((part, box, score, label, window))

    def everywhere(self, bitmap: np.ndarray, *, score: float = 0.9, label: int = 1) -> None:
        for tile in range(len(self.tiling.windows(self.size))):
            self.add(tile, bitmap, score=score, label=label)

    def joined(self, *, masks: bool = True, agnostic: bool = False) -> list[tuple[int, float, Any]]:
        """(label, score, mask or box) of the objects."""
        parts, boxes, scores, labels, windows = zip(*self.rows, strict=True)
        split = runs.move(runs.from_bitmaps(parts), self.size[0], self.size[0], (0, 0))
        pieces = Pieces(
            np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels), np.array(windows),
            split if masks else None,
        )  # fmt: skip
        found = join_pieces(pieces, self.tiling, self.size, agnostic=agnostic)
        assert (np.diff(found.scores) <= 0).all()
        shown: Any = found.boxes.tolist()
        if found.runs is not None:
            bitmaps = []
            for i in range(len(found.boxes)):
                part, (top, left) = runs.bitmap(found.runs, i, self.size[0])
                bitmaps.append(np.pad(part, ((top, self.size[0] - top - len(part)), (left, 0))))
                bitmaps[-1] = np.pad(bitmaps[-1], ((0, 0), (0, self.size[1] - bitmaps[-1].shape[1])))
                y, x = np.nonzero(bitmaps[-1])
                assert found.boxes[i].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            shown = bitmaps
        scores = [round(score, 4) for score in found.scores.tolist()]
        return list(zip(found.labels.tolist(), scores, shown, strict=True))


def check(found: list[tuple[int, float, Any]], want: list[tuple[int, np.ndarray]]) -> None:
    """Exactly these labels and masks, in any order."""
    assert sorted((label, mask.tobytes()) for label, _, mask in found) == sorted(
        (label, mask.tobytes()) for label, mask in want
    )


DIAGONAL = np.abs(np.subtract.outer(np.arange(100), np.arange(100))) < 3
RING = rectangle(20, 20, 80, 80) & ~rectangle(30, 30, 70, 70)
OBJECTS = {
    "in one tile": [(1, rectangle(5, 5, 20, 20))],
    "complete in two tiles": [(1, rectangle(44, 10, 56, 20))],
    "complete in four tiles": [(1, rectangle(44, 44, 55, 56))],
    "cut in one tile": [(1, rectangle(30, 10, 50, 20))],
    "cut by three of four tiles": [(1, rectangle(30, 30, 50, 52))],
    "over two tiles": [(1, rectangle(20, 10, 80, 30))],
    "over four tiles": [(1, rectangle(20, 20, 80, 80))],
    "the whole image": [(1, rectangle(0, 0, 100, 100))],
    "thin, across": [(1, rectangle(3, 50, 97, 52))],
    "thin, one pixel": [(1, rectangle(3, 20, 97, 21))],
    "thin, down": [(1, rectangle(50, 0, 53, 100))],
    "thin, diagonal": [(1, DIAGONAL)],
    "a ring over four tiles": [(1, RING)],
    "touching on the middle of the seam": [(1, rectangle(10, 10, 50, 40)), (1, rectangle(50, 10, 90, 40))],
    "touching on a tile's border": [(1, rectangle(10, 10, 60, 40)), (1, rectangle(60, 10, 90, 40))],
    "touching, both over the seam": [(1, rectangle(20, 10, 80, 25)), (1, rectangle(20, 25, 80, 40))],
    "different classes on one place": [(1, rectangle(20, 10, 80, 30)), (2, rectangle(20, 10, 80, 30))],
    "different classes, small, on one place": [(1, rectangle(44, 10, 56, 20)), (2, rectangle(44, 10, 56, 20))],
    "nested, both over the seam": [(1, rectangle(15, 10, 85, 38)), (1, rectangle(25, 18, 75, 28))],
    "nested, the inner complete": [(1, rectangle(15, 10, 85, 38)), (1, rectangle(45, 20, 55, 28))],
    "nested, both complete": [(1, rectangle(42, 10, 58, 26)), (1, rectangle(47, 15, 53, 21))],
    "a small one beside a large one": [(1, rectangle(20, 10, 80, 30)), (1, rectangle(57, 30, 63, 36))],
}


@pytest.mark.parametrize("objects", OBJECTS.values(), ids=OBJECTS.keys())
def test_objects_come_out_as_they_are_drawn(objects: list[tuple[int, np.ndarray]]) -> None:
    seen = Seen()
    for label, bitmap in objects:
        seen.everywhere(bitmap, label=label)
    check(seen.joined(), objects)


@st.composite
def scenes(draw: Any) -> tuple[Tiling, tuple[int, int], list[tuple[int, np.ndarray]]]:
    """Rectangles of two classes that may touch, and tiles of any size and overlap."""
    size = draw(st.integers(20, 90)), draw(st.integers(20, 90))
    side = draw(st.integers(16, 60))
    tiling = Tiling(side, draw(st.integers(4, round(0.8 * side))), 1.0)
    taken = np.zeros(size, dtype=bool)
    objects = []
    for _ in range(draw(st.integers(1, 8))):
        x, y = draw(st.integers(0, size[1] - 1)), draw(st.integers(0, size[0] - 1))
        width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
        bitmap = rectangle(x, y, x + width, y + height, size)
        if not (bitmap & taken).any():
            taken |= bitmap
            objects.append((draw(st.integers(1, 2)), bitmap))
    return tiling, size, objects


@given(scenes())
@settings(max_examples=200)
def test_rectangles_that_tiles_see_exactly_come_out_exactly(scene: Any) -> None:
    tiling, size, objects = scene
    seen = Seen(size, tiling)
    for n, (label, bitmap) in enumerate(objects):
        seen.everywhere(bitmap, label=label, score=0.5 + n / 100)
    check(seen.joined(), objects)


def test_of_two_complete_ones_the_better_stays() -> None:
    seen = Seen()
    seen.add(0, rectangle(44, 10, 56, 22), score=0.6)
    seen.add(1, rectangle(44, 11, 57, 22), score=0.8)
    ((_, score, mask),) = seen.joined()
    assert score == 0.8
    np.testing.assert_array_equal(mask, rectangle(44, 11, 57, 22))


def test_the_complete_one_is_preferred_to_a_better_part() -> None:
    seen = Seen()
    seen.add(0, rectangle(20, 10, 50, 30), score=0.6)
    seen.add(1, rectangle(40, 12, 48, 29), score=0.9)
    seen.add(1, rectangle(40, 35, 44, 45), score=0.9)  # tile 0 sees this place too, and that nothing is there
    ((_, score, mask),) = seen.joined()
    assert score == 0.6
    np.testing.assert_array_equal(mask, rectangle(20, 10, 50, 30))


def test_a_part_of_another_class_is_dropped_if_the_other_tile_sees_the_object() -> None:
    seen = Seen()
    seen.add(0, rectangle(20, 10, 50, 30), score=0.6, label=1)
    seen.add(1, rectangle(20, 10, 50, 30), score=0.9, label=2)
    assert [(label, score) for label, score, _ in seen.joined()] == [(1, 0.6)]


@pytest.mark.parametrize(("x1", "x2"), [(44, 56), (20, 80)])
def test_tiles_that_disagree_on_a_class_see_one_object_if_suppression_is_agnostic(x1: int, x2: int) -> None:
    """Complete in both tiles, and cut by both; on it lies a smaller object of another class."""
    seen, large, small = Seen(), rectangle(x1, 10, x2, 30), rectangle(46, 12, 54, 18)
    seen.add(0, large, score=0.6, label=1)
    seen.add(1, large, score=0.8, label=2)
    for tile in (0, 1):
        seen.add(tile, small, score=0.7, label=3)
    check(seen.joined(agnostic=True), [(2, large), (3, small)])
    assert len(seen.joined()) == 3


def test_arms_that_meet_in_the_next_tile_are_one_object() -> None:
    arms = rectangle(10, 5, 70, 11), rectangle(10, 20, 70, 24)
    whole = arms[0] | arms[1] | rectangle(66, 5, 72, 24)
    seen = Seen()
    seen.add(0, arms[0], score=0.7)
    seen.add(0, arms[1], score=0.8)
    seen.add(1, whole, score=0.6)
    ((_, score, mask),) = seen.joined()
    assert score == 0.8
    np.testing.assert_array_equal(mask, whole)


@pytest.mark.parametrize(("score", "count"), [(0.9, 1), (0.7, 2)])
def test_one_tile_sees_one_object_and_the_other_two(score: float, count: int) -> None:
    """The better of the two views stays."""
    seen = Seen()
    seen.add(0, rectangle(44, 10, 56, 20), score=score)
    seen.add(1, rectangle(44, 10, 49, 20), score=0.8)
    seen.add(1, rectangle(49, 10, 56, 20), score=0.75)
    assert len(seen.joined()) == count


def test_an_object_in_another_stays_though_one_tile_missed_it() -> None:
    outer, inner = rectangle(42, 10, 58, 26), rectangle(47, 15, 53, 21)
    seen = Seen()
    seen.everywhere(outer, score=0.9)
    seen.add(1, inner, score=0.5)
    check(seen.joined(), [(1, outer), (1, inner)])


def test_without_masks_boxes_are_joined() -> None:
    seen = Seen()
    seen.everywhere(rectangle(20, 10, 80, 30), score=0.9)
    seen.everywhere(rectangle(44, 50, 56, 58), score=0.8)
    assert seen.joined(masks=False) == [(1, 0.9, [20, 10, 80, 30]), (1, 0.8, [44, 50, 56, 58])]


def test_without_overlap_parts_stay_parts() -> None:
    seen = Seen(tiling=Tiling(50, 0, 1.0))
    seen.everywhere(rectangle(20, 10, 80, 30))
    check(seen.joined(), [(1, rectangle(20, 10, 50, 30)), (1, rectangle(50, 10, 80, 30))])


def test_each_keypoint_is_where_a_tile_was_surest() -> None:
    windows = TILING.windows(SIZE)
    pieces = Pieces(
        boxes=np.array([[20, 10, 60, 30], [40, 10, 80, 30], [5, 60, 20, 80]], np.float32),
        scores=np.array([0.6, 0.7, 0.8], np.float32),
        labels=np.array([1, 1, 1]),
        windows=windows[[0, 1, 2]],
        keypoints=np.array(
            [[[22, 20, 0.9], [50, 20, 0.2]], [[41, 20, 0.3], [75, 20, 0.8]], [[9, 61, 0.1], [10, 62, 0.1]]], np.float32
        ),
    )
    found = join_pieces(pieces, TILING, SIZE)
    assert found.keypoints is not None
    np.testing.assert_allclose(found.scores, [0.8, 0.7])
    np.testing.assert_allclose(found.keypoints[1], [[22, 20, 0.9], [75, 20, 0.8]])
    np.testing.assert_allclose(found.keypoints[0], [[9, 61, 0.1], [10, 62, 0.1]])
    np.testing.assert_allclose(found.boxes, [[5, 60, 20, 80], [20, 10, 80, 30]])
