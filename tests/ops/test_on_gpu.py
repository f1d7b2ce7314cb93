"""Triton's kernels on a GPU: the interpreter shows no race, no compile error and no reduced precision."""

import pytest
import torch

from tests.ops.kernel_checks import CHECKS


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_kernels_equal_the_reference(name) -> None:
    assert CHECKS[name].run("cuda") <= CHECKS[name].tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["roi_align float32", "roi_align deterministic", "nms", "match", "paste"])
def test_kernels_start_on_the_device_of_their_tensors(name) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    assert torch.cuda.current_device() == 0
    assert CHECKS[name].run("cuda:1") <= CHECKS[name].tolerance
