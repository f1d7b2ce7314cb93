"""Tables of tensor names, read in both directions: theirs to ours when loading, ours to theirs when writing.

A row is a pair of patterns, ours first. `{x}` stands for the tensor's own last word, `{c}` for a convolution of a
block, other braces for numbers; `{i+2}` is number i plus two. The first row that fits decides.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from ...errors import CheckpointError

Row = tuple[str, str]  # ours, theirs
T = TypeVar("T")

_WORDS = {
    "x": r"weight|bias|running_mean|running_var|num_batches_tracked",
    "c": r"conv[123]|shortcut",
}
_FIELD = re.compile(r"\{(\w+)(?:([+-])(\d+))?\}")


def renamed(name: str, table: Sequence[Row], *, to_ours: bool) -> str | None:
    """`name` in the other naming, by the first row that fits; None where none does."""
    for ours, theirs in table:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        found = _read(source, name)
        if found is not None:
            return _write(target, found)
    return None


def rename_all(tensors: Mapping[str, T], table: Sequence[Row], *, to_ours: bool) -> tuple[dict[str, T], list[str]]:
    """Every tensor under its new name, and the names that no row knows. Raises `CheckpointError` where two meet."""
    known: dict[str, T] = {}
    origin: dict[str, str] = {}
    unknown = []
    for name, tensor in tensors.items():
        other = renamed(name, table, to_ours=to_ours)
        if other is None:
            unknown.append(name)
        elif other in known:
            raise CheckpointError(f"{origin[other]} and {name} are both {other}")
        else:
            known[other], origin[other] = tensor, name
    return known, unknown


@cache
def _pattern(text: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """A pattern as a regular expression, and what is added to each of its numbers."""
    expression, end, offsets = "", 0, {}
    for field in _FIELD.finditer(text):
        word, sign, amount = field.groups()
        expression += re.escape(text[end : field.start()]) + f"(?P<{word}>{_WORDS.get(word, r'[0-9]+')})"
        offsets[word] = int(f"{sign}{amount}") if sign else 0
        end = field.end()
    return re.compile(expression + re.escape(text[end:])), offsets


def _read(text: str, name: str) -> dict[str, str] | None:
    """The fields of a pattern in `name`, numbers without what the pattern adds."""
    expression, offsets = _pattern(text)
    match = expression.fullmatch(name)
    if match is None:
        return None
    return {word: v if word in _WORDS else str(int(v) - offsets[word]) for word, v in match.groupdict().items()}


def _write(text: str, fields: Mapping[str, str]) -> str:
    def value(field: re.Match[str]) -> str:
        word, sign, amount = field.groups()
        return str(int(fields[word]) + int(f"{sign}{amount}")) if sign else fields[word]

    return _FIELD.sub(value, text)
