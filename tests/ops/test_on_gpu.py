"""Triton's kernels on a card: the interpreter sees no race, no compile error and no reduced precision."""

import pytest

from tests.ops.kernel_checks import CHECKS


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_kernels_equal_the_reference(name) -> None:
    assert CHECKS[name].run("cuda") <= CHECKS[name].tolerance
