"""One training in a folder; what a killed save left; a disk that takes nothing more."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn.errors import ConfigError, TrainingError
from maskrcnn.files import held
from maskrcnn.training import state as state_module
from maskrcnn.training.loop import fit
from maskrcnn.training.run import FINAL, LOCK, STATE, alone_in_folder, claim_folder
from maskrcnn.weights.checkpoint import write_tensors
from tests.training.stand_in import make_run, make_task

HOLD = """
import os, signal, sys
from pathlib import Path
from maskrcnn.files import held
with held(Path(sys.argv[1]), ValueError):
    print(os.getpid(), flush=True)
    signal.pause()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_a_second_training_is_refused_and_a_killed_one_leaves_the_folder_free(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    number = int(other.stdout.readline())
    try:
        with pytest.raises(ConfigError, match=f"in use by process {number} on "), alone_in_folder(run):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert (tmp_path / LOCK).exists()  # the killed process had no time to remove it
    with alone_in_folder(run):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / LOCK).exists()


def test_without_locks_of_the_disk_a_process_is_known_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for owner, free in (("", True), (f"process {ended.pid} on here", True), (f"process {os.getppid()} on here", False),
                        (f"process {ended.pid} on elsewhere", False)):  # fmt: skip
        (tmp_path / LOCK).write_text(owner)
        if free:
            with held(tmp_path / LOCK, ConfigError):
                pass
        else:
            with pytest.raises(ConfigError, match=owner), held(tmp_path / LOCK, ConfigError):
                pass


def test_the_next_start_removes_what_a_killed_save_left_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    claim_folder(run)
    left = [tmp_path / f".{name}.{number}.part" for name in (STATE, FINAL, "run.json") for number in (1, 99999)]
    others = [tmp_path / ".notes.txt.1.part", tmp_path / "state.safetensors.part"]
    for path in (*left, *others):
        path.write_bytes(b"half")
    claim_folder(run)
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in others)


def test_a_full_disk_is_one_sentence_and_the_save_before_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the test takes the first save and not the second one."""
    fit(make_task(tmp_path / "whole"))
    saves: list[int] = []
    original = state_module.write_tensors

    def write(*arguments: object) -> None:
        saves.append(0)
        if len(saves) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(state_module, "write_tensors", write)
    with pytest.raises(TrainingError, match=r"save after step 10 \(No space left on device\): the save before is"):
        fit(make_task(tmp_path / "full"))
    fit(make_task(tmp_path / "full"))
    assert (tmp_path / "full" / FINAL).read_bytes() == (tmp_path / "whole" / FINAL).read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files")
def test_tensors_that_do_not_fit_are_an_error_of_the_system(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(10_000)}, "test", 1, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
