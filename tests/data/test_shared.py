"""Arrays that spawned processes map instead of receiving a copy."""

import multiprocessing
import os
import pickle
from multiprocessing.context import set_spawning_popen
from typing import NamedTuple

import numpy as np
import pytest

from maskrcnn.data import shared
from maskrcnn.data.problems import Report
from maskrcnn.data.shared import FEWEST_BYTES, hand_over, share, take_over


class Table(NamedTuple):
    large: np.ndarray
    small: np.ndarray
    name: str


class Holder:
    """What a data set does with its tables."""

    def __init__(self, table):
        self.table = share(table)

    def __getstate__(self):
        return {"table": hand_over(self.table)}

    def __setstate__(self, state):
        self.table = take_over(state["table"])


def table() -> Table:
    return Table(np.arange(FEWEST_BYTES // 2, dtype=np.float32).reshape(-1, 2), np.arange(3), "x")


def write_into(holder, connection) -> None:
    holder.table.large[5, 1] = -7.0
    holder.table.small[0] = -7
    connection.send(
        (holder.table.large.shape, holder.table.large.dtype, holder.table.name, holder.table.large[-1].tolist())
    )


@pytest.mark.parametrize("memory", ["memfd", "file"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_spawned_process_sees_the_same_memory(memory, method, monkeypatch) -> None:
    if memory == "file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    holder = Holder(table())
    context = multiprocessing.get_context(method)
    mine, theirs = context.Pipe()
    process = context.Process(target=write_into, args=(holder, theirs))
    process.start()
    expected = table()
    assert mine.recv() == (expected.large.shape, expected.large.dtype, "x", expected.large[-1].tolist())
    process.join()
    assert holder.table.large[5, 1] == -7.0  # written by the other process
    assert holder.table.small[0] == 0  # a copy there


def test_sharing_moves_large_arrays_once() -> None:
    before = table()
    moved = share(before)
    for a, b in zip(before, moved, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.shares_memory(moved.large, before.large)
    assert moved.small is before.small
    again = share(moved)
    assert again.large is moved.large
    half = len(moved.large) // 2
    part = share(moved._replace(large=moved.large[:half]))  # a view is not the whole
    assert not np.shares_memory(part.large, moved.large)


def test_pickling_elsewhere_copies() -> None:
    holder = pickle.loads(pickle.dumps(Holder(table())))
    np.testing.assert_array_equal(holder.table.large, table().large)
    assert shared._memory(holder.table.large) is None


def test_problems_of_a_data_set_stay_behind_when_a_process_is_spawned() -> None:
    report = Report("a.json")
    report.add("repair", "odd")
    assert len(pickle.loads(pickle.dumps(report)).problems) == 1
    set_spawning_popen(object())  # type: ignore[arg-type]
    try:
        sent = pickle.dumps(report)
    finally:
        set_spawning_popen(None)  # type: ignore[arg-type]
    assert pickle.loads(sent).problems == []
    assert len(report.problems) == 1
