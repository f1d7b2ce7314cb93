"""Warns about long files and functions: `make check` prints what this prints. It never fails.

Length alone is no fault. A warning asks whether the file or function holds more than one thought; if it does not, it
stays as it is.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 600, 80


def warnings(path: Path) -> Iterator[str]:
    """One line for the file at `path` if it is too long, and one for each of its functions that is."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > MOST_LINES_OF_A_FILE:
        yield f"{path}: {lines} lines, more than {MOST_LINES_OF_A_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, more than {MOST_LINES_OF_A_FUNCTION}"


if __name__ == "__main__":
    for folder in ("maskrcnn", "benchmarks", "tests"):
        for file in sorted(Path(folder).rglob("*.py")):
            for warning in warnings(file):
                print(f"warning: {warning}")
