"""Data workers that end, hang, or cannot be had: the run takes another way, or one sentence says why not."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.config import AugmentConfig, InputConfig, ModelConfig
from maskrcnn.data import workers
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.workers import AsBytes, affordable, answer_of, main_module_hidden, needs_pipes
from maskrcnn.errors import WorkerLost
from tests.scenes import TWO_APART, write_coco

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are looked up on Linux")
MODEL = ModelConfig(input=InputConfig(min_size=0))


class Process:
    """What is looked at of a worker."""

    def __init__(self, exitcode: int | None = None) -> None:
        self.exitcode, self.pid = exitcode, 0


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path, {f"{letter}.png": TWO_APART for letter in "abcdefgh"})


def test_what_never_answers_is_given_up_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    monkeypatch.setattr(workers, "MOST", 0.5)
    monkeypatch.setattr(workers, "ENDED", 0.5)
    cases = {
        None: "do nothing, so the disk may not answer; --workers 0",
        -signal.SIGKILL: "ended by SIGKILL, as a system that is short of memory does.*--workers 0",
        errno.ENOSPC: "/dev/shm is full.*--shm-size",
        errno.EMFILE: "too many files are open.*ulimit -n",
        1: "exit code 1: the guard",
    }
    monkeypatch.setattr(workers, "_LOOK", 0.1)
    for code, words in cases.items():
        with pytest.raises(WorkerLost, match=words):
            answer_of(lambda: time.sleep(20), lambda code=code: [Process(code)], "the guard")


def test_an_answer_and_an_error_come_through() -> None:
    assert answer_of(lambda: 7, list) == 7
    with pytest.raises(ValueError, match="of the user"):
        answer_of(lambda: int("of the user"), list)


@linux
def test_too_few_descriptors_and_a_small_shared_memory_are_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_free_descriptors", lambda: 80)
    assert affordable(4)[0] == 2
    assert "ulimit -n" in affordable(4)[1]
    assert affordable(2) == (2, "")
    monkeypatch.setattr(workers, "_free_descriptors", lambda: 10_000)
    assert needs_pipes(2, 1000) == ""
    usage: Any = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    assert "--shm-size" in needs_pipes(2, 2**20)


def test_bytes_keep_values_and_the_order_in_memory() -> None:
    pixels = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    back = pickle.loads(AsBytes({0: {"pixels": pixels, "row": pixels[0, 0]}})[0])
    assert torch.equal(back["pixels"], pixels)
    assert back["pixels"].stride() == pixels.stride()
    assert torch.equal(back["row"], pixels[0, 0])


def test_the_script_of_the_user_is_hidden_only_while_processes_start() -> None:
    main = sys.modules["__main__"]
    before = main.__spec__, getattr(main, "__file__", None)
    with main_module_hidden(False):
        assert main.__spec__ is None
    assert (main.__spec__, getattr(main, "__file__", None)) == before
    with main_module_hidden(True):
        assert (main.__spec__, getattr(main, "__file__", None)) == before


@linux
def test_a_killed_worker_is_an_error_and_small_shared_memory_another_way(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches come through pipes; then the worker is killed."""
    usage: Any = type("Usage", (), {"free": 0})
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    said: list[str] = []
    dataset, settings = read_dataset(coco), {"batch": 1, "warn": said.append}
    here = TrainLoader(dataset, MODEL, AugmentConfig(crop=32), **settings)
    away = TrainLoader(dataset, MODEL, AugmentConfig(crop=32), workers=1, **settings)
    expected, got = list(here.batches(0)), list(away.batches(0))
    for one, other in zip(expected, got, strict=True):
        assert torch.equal(one.images.pixels, other.images.pixels)
        assert one.images.pixels.stride() == other.images.pixels.stride()
    assert len(said) == 1
    batches = away.batches(1)
    next(batches)
    os.kill(away._processes()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        list(batches)


SCRIPT = """
import sys
from maskrcnn.config import AugmentConfig, InputConfig, ModelConfig
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import TrainLoader
loader = TrainLoader(read_dataset(sys.argv[1]), ModelConfig(input=InputConfig(min_size=0)), AugmentConfig(crop=32),
                     batch=4, workers=1)
print(sum(1 for _ in loader.batches(0)))
"""


def test_a_plain_script_without_a_main_guard_has_workers(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "plain.py"), str(coco)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr
