"""docs/cli.md, written from the program itself: `python -m maskrcnn.cli.reference`."""

import os
import subprocess
import sys

HEADER = """# Command line

Written by `make docs` from the program's own help.

Exit codes: 0 the work is done, 1 it failed, 2 the arguments or the data are wrong, 130 it was interrupted. What is
wrong is one sentence on standard error that names the file; `--debug`, anywhere, shows the traceback.
"""


def reference() -> str:
    """The page."""
    from .main import VERBS

    names = ["", *(verb.__name__ for verb in VERBS)]
    return HEADER + "".join(f"\n## maskrcnn{' ' if name else ''}{name}\n\n```\n{_help(name)}\n```\n" for name in names)


def _help(verb: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "maskrcnn", *verb.split(), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


if __name__ == "__main__":
    print(reference(), end="")
