"""Options that are read off a function."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import maskrcnn
from maskrcnn.cli.main import VERBS
from maskrcnn.cli.options import argument_help, options_of


def work(
    source: str | Path,
    *,
    count: int | None = None,
    out_dir: str | Path | None = None,
    kind: str = "a",
    fast: bool = False,
) -> None:
    """Works.

    Args:
        source: What to read.
        count: How many.
        out_dir: Where to write.
        kind: Which kind.
        fast: Whether to hurry.

    Raises nothing.
    """


def run(*words: str) -> tuple[dict[str, Any], str]:
    """What the verb gets, and what it prints."""
    got: dict[str, Any] = {}

    @options_of(work, without=("kind",))
    def verb(*, letter: Annotated[str, typer.Option("--letter", help="One letter.")] = "z", **arguments: Any) -> None:
        got.update(arguments, kind=letter)

    app = typer.Typer(rich_markup_mode=None)
    app.command()(verb)
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "80"})
    return got, result.output


def test_words_become_arguments() -> None:
    got, _ = run("x.json", "--count", "3", "--out-dir", "y", "--fast", "--letter", "q")
    assert got == {"source": Path("x.json"), "count": 3, "out_dir": Path("y"), "fast": True, "kind": "q"}
    got, _ = run("x.json")
    assert got == {"source": Path("x.json"), "count": None, "out_dir": None, "fast": False, "kind": "z"}


def test_the_docstring_is_the_help() -> None:
    _, help = run("--help")
    lines = [line.split() for line in help.splitlines()]
    assert ["--count", "<int>", "How", "many."] in lines
    assert ["--fast", "Whether", "to", "hurry."] in lines
    assert ["--letter", "<str>", "One", "letter.", "[default:", "z]"] in lines
    assert "no-fast" not in help


def test_an_argument_without_a_line_is_an_error() -> None:
    def silent(source: str, *, loud: bool = False) -> None:
        """Works.

        Args:
            source: What to read.
        """

    with pytest.raises(KeyError, match="loud"):
        options_of(silent)(lambda **arguments: None)


PYTHON_ONLY = {"callbacks", "parts", "transform"}  # a function


def test_train_has_an_option_for_every_argument() -> None:
    (verb,) = [verb for verb in VERBS if verb.__name__ == "train"]
    own = {"settings": "overrides", "no_masks": "masks"}
    names = [own.get(name, name) for name in inspect.signature(verb).parameters]
    assert sorted(names) == sorted(set(inspect.signature(maskrcnn.train).parameters) - PYTHON_ONLY)
    assert sorted(names) == sorted(set(argument_help(maskrcnn.train)) - PYTHON_ONLY)


def test_train_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskrcnn.cli import train as module

    got: dict[str, Any] = {}
    monkeypatch.setattr(module, "run", lambda **arguments: got.update(arguments))
    app = typer.Typer()
    app.command()(module.train)
    words = [
        "D",
        "--set",
        "train.lr=1",
        "--set",
        "train.ema=0.5",
        "--no-masks",
        "--stages",
        "rpn,heads",
        "--epochs",
        "2",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert isinstance(got["overrides"], Sequence)
    assert got.pop("overrides") == ["train.lr=1", "train.ema=0.5"]
    given = {"data": Path("D"), "masks": False, "stages": "rpn,heads", "epochs": 2.0}
    defaults = {name: one.default for name, one in inspect.signature(maskrcnn.train).parameters.items()}
    assert got == {
        name: given.get(name, default) for name, default in defaults.items() if name not in {"overrides", *PYTHON_ONLY}
    }
