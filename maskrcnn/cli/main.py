"""The `maskrcnn` command. Each verb has its own file; errors become exit codes only here.

Exit codes: 0 success, 1 failure, 2 wrong arguments or data, 130 interrupted. A verb imports what it needs when it runs,
so `maskrcnn --help` answers at once.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import MaskRCNNError
from .benchmark import benchmark
from .check import check
from .convert import convert
from .convert_data import convert_data
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .info import info
from .predict import predict
from .propose import propose
from .report import report
from .train import train

VERBS: tuple[Callable[..., None], ...] = (
    train, evaluate, report, predict, check, convert, convert_data, info, propose, doctor, benchmark,
    demo,
)  # fmt: skip

app = typer.Typer(
    help="Mask R-CNN: train on your own images, evaluate, and predict.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},  # wider terminals are used
)


class Interrupted(MaskRCNNError):
    """The user pressed Ctrl-C."""

    exit_code = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `arguments`, by default those of this process, and exits with its exit code.

    An error is printed as one sentence on standard error; `--debug`, at any position, shows the traceback instead.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app([word for word in words if word != "--debug"] or ["--help"], prog_name="maskrcnn")
    except (MaskRCNNError, OSError) as error:
        if debug:
            raise
        sentence = str(error)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            sentence = f"{where}{error.strerror or error}"
        for line in (*getattr(error, "__notes__", ()), f"maskrcnn: {sentence}"):
            print(line, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _print_version(asked: bool | None) -> bool:
    if asked:
        print(f"maskrcnn {__version__}")
        raise typer.Exit
    return False


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def _interruptible(verb: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(verb)
    def run(*arguments: Any, **named: Any) -> None:
        try:
            verb(*arguments, **named)
        except KeyboardInterrupt as error:
            raise Interrupted(str(error) or f"{verb.__name__} was interrupted") from error

    return run


for _verb in VERBS:
    app.command()(_interruptible(_verb))
