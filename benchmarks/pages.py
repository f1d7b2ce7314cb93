"""Results as json and as Markdown. A file is written completely or not at all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.files import replacing

RESULTS = Path(__file__).parent / "results"


def lines_of_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown, a line for each row."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def machine_lines(machines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each different machine of `machine.facts`, in words."""
    return sorted({f"Machine: {found['processor']}; {found['versions']}." for found in machines})


def write_json(path: Path, content: Any) -> None:
    _write(path, json.dumps(content, indent=1) + "\n")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    _write(path, "\n".join(lines) + "\n")


def read_json(path: Path) -> Any:
    """The content of the file; None if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
