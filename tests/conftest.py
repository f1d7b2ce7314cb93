"""What every test relies on: checked shapes, seeded randomness, and skips with their reasons.

Every function of the package is checked against its annotations, shapes included, but for kernels: those are compiled.
Hypothesis draws the same inputs in every run, so that a change is judged by what it changed; `make fuzz` draws others.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings

PACKAGE = Path(__file__).parents[1] / "maskrcnn"

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("MASKRCNN_HYPOTHESIS", "same"))


def _checked_modules() -> list[str]:
    found = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")]
    return [name for name in found if not name.endswith(("_numba", "_triton", "__init__", "__main__"))]


jaxtyping.install_import_hook(_checked_modules(), "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of the test's own, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def torch_rng() -> torch.Generator:
    """The same for tensors."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Fresh weights are the same in every run, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of data sets outside the repository; without it the test is skipped."""
    folder = os.environ.get("MASKRCNN_TEST_DATA")
    if not folder:
        pytest.skip("MASKRCNN_TEST_DATA is not set: no data outside the repository")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "there is no CUDA device"
    if not os.environ.get("MASKRCNN_TEST_DATA"):
        missing["data"] = "MASKRCNN_TEST_DATA is not set"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was not seen, by reason: a skip is never silent."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not seen: {count} test{'s' if count > 1 else ''} ({reason})")
