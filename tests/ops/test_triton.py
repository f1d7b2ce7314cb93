"""Triton's kernels without a GPU: the interpreter checks their arithmetic, and the compiler accepts them."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.ops.kernel_checks import boxes_of, determinism, pyramid_of

ROOT = Path(__file__).parents[2]
OPS = ("match", "nms", "paste", "roi_align")
# A selection, as the interpreter is slow. It computes with NumPy, which warns of numbers that are not finite.
CHOSEN = (
    "triton and not (inf or 3e or nan-2 or (impossible_boxes and (True-0 or False-2)) or (bfloat16 and not pyramid))"
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_interpreter_passes_the_tests_of_the_operators() -> None:
    """The tests that each implementation has to pass, in a process in which Triton interprets its kernels."""
    assert "TRITON_INTERPRET" not in os.environ
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", "-rp"]
    done = subprocess.run(
        [*command, "-k", CHOSEN, *(f"tests/ops/test_{op}.py" for op in OPS)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for op in OPS:
        assert done.stdout.count(f"PASSED tests/ops/test_{op}.py::") >= 9, op


@pytest.fixture
def compiled(monkeypatch) -> Iterator[list[str]]:
    """The names of the compiled kernels. A launch compiles for an H100's architecture and runs nothing."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        """What the compiler wants to know about the machine."""

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 99  # no other test uses what is compiled for this device

        def get_current_stream(self, device: int) -> int:
            return 0

    names = []

    def warm_up(kernel, grid):
        def compile_it(*args, **kwargs):
            names.append(kernel.__name__)
            return kernel.warmup(*args, grid=grid, **kwargs)

        return compile_it

    monkeypatch.setattr(JITFunction, "__getitem__", warm_up)
    before = dict(vars(driver))
    driver.set_active(Driver())  # type: ignore[arg-type]
    try:
        yield names
    finally:
        vars(driver).update(before)


# Sizes of 1 are constants to the compiler.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("sampling", "aligned", "canvas", "channels"), [(2, True, 96, 256), (0, False, 32, 1)])
def test_roi_align_compiles(compiled, dtype, sampling, aligned, canvas, channels) -> None:
    from maskrcnn.ops.grids import Grid
    from maskrcnn.ops.kernels.roi_align_triton import roi_align_triton

    maps = pyramid_of(canvas, canvas, channels, dtype, "cpu", batch=1)
    boxes, levels, valid = boxes_of(canvas, canvas, 3 if channels > 1 else 1, "cpu", batch=1)
    grid = Grid(tuple((1 / s, 1 / s) for s in (4, 8, 16, 32)), 7, sampling, aligned)
    out = roi_align_triton(maps, boxes, levels, valid, grid)
    for deterministic in (False, True):
        with determinism(deterministic):
            torch.autograd.grad(out, maps, torch.ones_like(out), retain_graph=True)
    assert compiled == ["_forward_kernel", "_atomic_backward_kernel", *["_owning_backward_kernel"] * 4]


@pytest.mark.parametrize("count", [50, 1])
def test_match_nms_and_paste_compile(compiled, count) -> None:
    from maskrcnn.ops.kernels.match_triton import match_triton
    from maskrcnn.ops.kernels.nms_triton import nms_triton
    from maskrcnn.ops.kernels.paste_triton import paste_triton

    boxes, scores, groups = torch.rand(2, count, 4), torch.rand(2, count), torch.zeros(2, count, dtype=torch.int64)
    yes = torch.ones(2, count, dtype=torch.bool)
    match_triton(boxes, boxes[:, :5], yes[:, :5], yes[:, :5], yes)
    if count > 1:  # it takes seconds
        nms_triton(boxes, scores, groups, yes, 0.5, 10)
    for threshold, strict in ((0.5, False), (0.5, True), (None, False)):
        paste_triton(torch.rand(2, 30, 30), torch.rand(2, count), torch.rand(2, count), threshold, strict)
    assert compiled == ["_best_kernel", "_best_of_gt_kernel", *["_nms_kernel"] * (count > 1), *["_paste_kernel"] * 3]
