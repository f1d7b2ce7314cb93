"""Both steps are one graph for `torch.compile`: `fullgraph` refuses whatever a tracer cannot follow."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("step", ["detection", pytest.param("training", marks=pytest.mark.slow)])
def test_a_step_is_one_graph_and_answers_alike(step) -> None:
    command = [sys.executable, "-m", "tests.model.compiled", step]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
