"""Which implementation runs, what a caller can ask for, and the reason given if that cannot run."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from maskrcnn.ops import dispatch
from maskrcnn.ops.dispatch import implementations, may_look, recorded_paths, torch_threads, use, which

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


@needs_numba
def test_a_cpu_runs_numba_and_records_it() -> None:
    with recorded_paths() as paths:
        assert which("nms", CPU) == "numba"
        assert which("roi_align", CPU, "reference") == "reference"
    assert paths == ["nms:numba", "roi_align:reference"]
    assert implementations("nms")[:2] == ["reference", "numba"]


def test_only_values_on_a_cpu_may_be_looked_at_and_only_in_eager_mode() -> None:
    assert may_look(torch.zeros(2))
    assert not may_look(torch.zeros(2, device="meta"))
    traced = torch.compile(lambda tensor: tensor + float(may_look(tensor)), backend="eager", fullgraph=True)
    assert traced(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_an_operator_without_a_kernel_runs_its_reference_on_every_device() -> None:
    assert which("boxes", CPU) == which("boxes", CUDA) == "reference"
    assert implementations("boxes") == ["reference"]


def test_use_holds_within_its_block_unless_the_caller_names_another() -> None:
    before = which("nms", CPU)
    with use("reference"):
        assert which("nms", CPU) == "reference"
        assert which("nms", CPU, before) == before
        with use(None):
            assert which("nms", CPU) == before
        assert which("nms", CPU) == "reference"
    assert which("nms", CPU) == before


@needs_numba
def test_only_the_first_compilation_on_a_machine_is_announced(tmp_path) -> None:
    program = (
        "import numpy as np; from maskrcnn.ops.grids import Axis; from maskrcnn.ops.interpolate import interpolate\n"
        "axis = Axis(np.zeros(1, np.intp), np.zeros(1, np.intp), np.zeros(1, np.float32))\n"
        "for dtype in (np.uint8, np.float32): interpolate(np.zeros((1, 1, 3), dtype), axis, axis)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stderr
        for _ in range(2)
    ]
    assert said[0].count("compiling kernels") == 1
    assert said[1] == ""


def test_use_also_ends_if_its_block_raises() -> None:
    before = which("nms", CPU)

    class Stop(BaseException):
        pass

    with pytest.raises(Stop), use("reference"):
        raise Stop
    assert which("nms", CPU) == before


@pytest.mark.parametrize(
    ("op", "device", "impl", "reason"),
    [
        ("nms", CPU, "cuda", "must be one of reference, numba, triton"),
        ("boxes", CPU, "numba", "no such kernel"),
        ("nms", CUDA, "numba", "for CPU tensors"),
    ],
)
def test_an_implementation_that_cannot_run_is_refused_with_the_reason(op, device, impl, reason) -> None:
    with recorded_paths() as paths, pytest.raises(ValueError, match=f"{op}.*{impl}.*{reason}"):
        which(op, device, impl)
    assert paths == []


def test_use_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="fast"), use("fast"):
        pass


def test_recorders_can_be_nested() -> None:
    with recorded_paths() as outer:
        which("nms", CPU, "reference")
        with recorded_paths() as inner:
            which("roi_align", CPU, "reference")
    assert outer == ["nms:reference", "roi_align:reference"]
    assert inner == ["roi_align:reference"]
    which("nms", CPU, "reference")
    assert len(outer) == 2


def test_without_numba_the_references_run_with_one_warning(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_importable", lambda name: False)
    dispatch._warn_slow.cache_clear()
    with pytest.warns(RuntimeWarning, match="pip install numba") as warned:
        assert which("nms", CPU) == which("roi_align", CPU) == "reference"
    assert len(warned) == 1
    assert implementations("nms") == ["reference"]
    with pytest.raises(ValueError, match="cannot be imported"):
        which("nms", CPU, "numba")


def test_a_function_that_is_being_compiled_runs_the_reference(monkeypatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert which("nms", CPU) == "reference"


@needs_numba
def test_numba_runs_on_as_many_threads_as_torch() -> None:
    import numba

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch_threads():
            assert numba.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
        with torch_threads():
            pass


@needs_numba
def test_the_first_kernel_does_not_change_the_number_of_torchs_threads() -> None:
    """In a new process, whose first kernel starts OpenMP's threads, one for each core, which PyTorch shares."""
    program = """
import torch
from maskrcnn.ops.dispatch import torch_threads
torch.set_num_threads(1)
with torch_threads():
    print(torch.get_num_threads())
"""
    assert _printed_by(program, NUMBA_NUM_THREADS="3") == "1"


@needs_numba
def test_threads_may_call_kernels_at_once_with_every_threading_layer() -> None:
    """In a new process, with the layer that aborts if two threads use it at once."""
    program = """
from concurrent.futures import ThreadPoolExecutor
import numba
import torch
from maskrcnn.ops.nms import nms
rng = torch.Generator().manual_seed(0)
low = torch.rand(4, 500, 2, generator=rng) * 200
boxes, scores = torch.cat((low, low + 30), dim=2), torch.rand(4, 500, generator=rng)
groups, valid = torch.zeros(4, 500, dtype=torch.int64), torch.ones(4, 500, dtype=torch.bool)
def kept(_: int) -> list[int]:
    return nms(boxes, scores, groups, valid, iou=0.5, top=100)[0].flatten().tolist()
with ThreadPoolExecutor(3) as threads:
    answers = list(threads.map(kept, range(60)))
print(numba.threading_layer(), all(answer == answers[0] for answer in answers))
"""
    assert _printed_by(program, NUMBA_THREADING_LAYER="workqueue") == "workqueue True"


def _printed_by(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    return done.stdout.strip()
