"""Ids that stay: through movement, crossings, weak detections and hiding places; answers known by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from maskrcnn.categories import Category
from maskrcnn.errors import ConfigError
from maskrcnn.ops.rle import counts_from_bitmap, string_from_counts
from maskrcnn.results import Result
from maskrcnn.tracking import Tracker
from maskrcnn.visualize import object_colours

SIZE = (60, 200)


def frame(things: Sequence[tuple[int, int, int, int]], scores: Sequence[float] = (), *, masks: bool = True,
          labels: Sequence[int] = (), size: tuple[int, int] = SIZE) -> Result:  # fmt: skip
    """Rectangles x1, y1, x2, y2, earlier ones in front."""
    hidden = np.zeros(size, dtype=bool)
    codes, boxes = np.empty(len(things), dtype=object), []
    for i, (x1, y1, x2, y2) in enumerate(things):
        bitmap = np.zeros(size, dtype=bool)
        bitmap[y1:y2, x1:x2] = True
        bitmap &= ~hidden
        hidden |= bitmap
        rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        codes[i] = string_from_counts(counts_from_bitmap(bitmap))
    return Result(
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores or [0.9] * len(things), np.float32),
        labels=np.array(labels or [1] * len(things)),
        codes=codes if masks else None,
        categories=(Category(1, "a"), Category(2, "b")),
    )


def ids(tracker: Tracker, *given, **more) -> list[int]:
    return tracker.update(frame(*given, **more)).ids.tolist()


@pytest.mark.parametrize("masks", [True, False])
def test_objects_keep_their_ids_while_they_move(masks: bool) -> None:
    tracker = Tracker()
    for step in range(10):
        a, b = (10 + 6 * step, 5, 30 + 6 * step, 20), (150 - 4 * step, 35, 180 - 4 * step, 55)
        both, expected = ([a, b], [1, 2]) if step % 2 == 0 else ([b, a], [2, 1])  # in any order
        assert ids(tracker, both, masks=masks) == expected


def test_objects_that_cross_keep_their_ids() -> None:
    """The one behind is hidden in part, then wholly for three frames, and comes out on the other side."""
    tracker, seen = Tracker(), []
    for step in range(30):
        front, behind = (10 + 5 * step, 10, 40 + 5 * step, 50), (160 - 5 * step, 20, 180 - 5 * step, 40)
        things = [front] if front[0] <= behind[0] and behind[2] <= front[2] else [front, behind]
        seen.append(ids(tracker, things))
    assert [1] in seen
    assert all(found in ([1, 2], [1]) for found in seen)
    assert seen[-1] == [1, 2]


def test_a_hidden_object_is_found_again_where_it_moves_until_it_is_forgotten() -> None:
    for hidden, expected in ((6, [1]), (30, [])):  # a new object has no id before it is seen twice
        tracker = Tracker(memory=10)
        for step in range(6):
            ids(tracker, [(4 * step, 10, 20 + 4 * step, 30)])
        for _ in range(hidden):
            assert ids(tracker, []) == []
        x = 4 * (5 + hidden + 1)
        assert ids(tracker, [(x, 10, x + 20, 30)]) == expected


def test_weak_detections_continue_objects_and_begin_none() -> None:
    tracker = Tracker(strong=0.5, weak=0.1)
    a, b = (10, 10, 30, 30), (100, 10, 120, 30)
    assert ids(tracker, [a, b], [0.9, 0.4]) == [1]
    assert ids(tracker, [a, b], [0.2, 0.4]) == [1]
    assert ids(tracker, [a, b], [0.05, 0.4]) == []
    assert ids(tracker, [a, b], [0.9, 0.4]) == [1]


def test_what_is_seen_once_gets_no_id() -> None:
    tracker = Tracker()
    ids(tracker, [(10, 10, 30, 30)])
    assert ids(tracker, [(10, 10, 30, 30), (100, 10, 120, 30)]) == [1]
    assert ids(tracker, [(10, 10, 30, 30)]) == [1]
    assert ids(tracker, [(10, 10, 30, 30), (100, 10, 120, 30)]) == [1]
    assert ids(tracker, [(10, 10, 30, 30), (100, 10, 120, 30)]) == [1, 2]


def test_classes_are_not_confused_and_another_size_begins_anew() -> None:
    tracker = Tracker()
    place = [(10, 10, 30, 30)]
    assert ids(tracker, place) == [1]
    assert ids(tracker, place, labels=[2]) == []
    assert ids(tracker, place, labels=[2]) == [2]
    assert ids(tracker, place, labels=[2], size=(50, 50)) == []
    assert ids(tracker, place, labels=[2], size=(50, 50)) == [3]


def test_objects_may_leave_the_image() -> None:
    tracker = Tracker()
    for x in range(0, 190, 10):
        assert ids(tracker, [(x, 0, min(x + 30, 200), 20)]) == [1]
    for _ in range(40):
        assert ids(tracker, []) == []


def test_the_colour_is_that_of_the_id() -> None:
    first, second = object_colours(np.array([1, 1]), np.array([4, 9]))
    assert object_colours(np.array([2]), np.array([9])) == [second]
    assert first != second


def test_thresholds_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="weak <= strong"):
        Tracker(strong=0.1, weak=0.5)
