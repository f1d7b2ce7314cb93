"""Exit codes and the words of errors."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskrcnn.cli import main as cli
from maskrcnn.errors import DataError, TrainingError


def leave(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `maskrcnn ARGUMENTS...` in this process."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the verb `check` raise `error`."""

    def describe(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("maskrcnn.data.formats.find_splits", describe)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leave(["--help"], capsys)
    assert code == 0
    assert all(verb.__name__.replace("_", "-") in out for verb in cli.VERBS)


def test_nothing_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave([], capsys) == leave(["--help"], capsys)


@pytest.mark.parametrize("arguments", [["paint"], ["predict"], ["train", "--no-such-option", "x"]])
def test_wrong_arguments_are_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = leave(arguments, capsys)
    assert code == 2
    assert "Error" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("a.jpg: cut off"), 2),
        (TrainingError("the loss is nan"), 1),
        (PermissionError(13, "Permission denied", "/x"), 1),
    ],
)
def test_an_error_is_one_sentence_and_its_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(error, monkeypatch)
    got, out, err = leave(["check", "data"], capsys)
    assert got == code
    assert out == ""
    assert err.startswith("maskrcnn: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "check", "data"], ["check", "data", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    raising(DataError("a.jpg: cut off"), monkeypatch)
    with pytest.raises(DataError, match="cut off"):
        cli.main(arguments)


@pytest.mark.parametrize("words", ["", "saved after step 7"])
def test_an_interrupt_is_130(words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    raising(KeyboardInterrupt(*([words] if words else [])), monkeypatch)
    code, _, err = leave(["check", "data"], capsys)
    assert code == 130
    assert err == f"maskrcnn: {words or 'check was interrupted'}\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(ZeroDivisionError(), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", "data"])


def test_python_dash_m_is_the_command_and_help_is_quick(tmp_path: Path) -> None:
    quickest = 9.0
    for _ in range(3):  # the machine may be busy
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "maskrcnn", "--help"], capture_output=True, text=True, cwd=tmp_path
        )
        quickest = min(quickest, time.perf_counter() - began)
        assert done.returncode == 0
        assert "predict" in done.stdout
    assert quickest < 0.5
