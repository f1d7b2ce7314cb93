"""What is known about one framework's checkpoints, and tables that translate tensor names in both directions.

A row of a table is a pair of patterns, ours first. `{x}` stands for the last word of a name, `{c}` for a convolution of
a block, other braces for numbers; `{i+2}` is the number i plus two. The first row that matches decides.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ...config import ModelConfig
from ...errors import CheckpointError

Row = tuple[str, str]  # ours, theirs
State = Mapping[str, Tensor]
T = TypeVar("T")

_WORDS = {"x": r"weight|bias|running_mean|running_var|num_batches_tracked", "c": r"conv[123]|shortcut"}
_FIELD = re.compile(r"\{(\w+)([+-]\d+)?\}")

# Settings that have one value in torchvision and one in Detectron2: the value in their profile.
FIXED = (
    *("input.resize", "input.size_rounding", "input.canvas", "anchors.rounding", "anchors.order", "anchors.stride"),
    *("box_arithmetic.inclusive", "box_arithmetic.frame", "box_arithmetic.nms_closed"),
    *("pool.level_epsilon", "pool.level_epsilon_place", "box_head.min_size", "mask_head.paste"),
    *(f"keypoint_head.{name}" for name in ("upsample", "shift", "score", "frame", "points")),
)


class Contents(NamedTuple):
    """A file of another framework: its tensors under their own names, and what else it holds."""

    tensors: dict[str, Tensor]
    rest: Mapping[str, Any]


class Origin(NamedTuple):
    """How the checkpoints of a framework are read."""

    name: str
    recognise: re.Pattern[str]  # matches the start of a name that only this framework uses
    prefix: str  # of the backbone, which files of a backbone alone leave out
    table: Sequence[Row]
    ignored: re.Pattern[str]  # tensors that are no weights of a Mask R-CNN
    to_ours: Callable[[State], dict[str, Tensor]]  # their order of rows to ours, under our names
    settle: Callable[[ModelConfig, Contents], ModelConfig]  # a config with the structure to one with their settings


class Target(NamedTuple):
    """How checkpoints are written for a framework."""

    table: Callable[[ModelConfig], Sequence[Row]]
    to_theirs: Callable[[State], dict[str, Tensor]]  # our order of rows to theirs, under our names
    fixed: Sequence[str]  # settings that have one value there: the one in its profile
    choices: Callable[[ModelConfig], Mapping[str, tuple[Any, ...]]]  # settings with other limits: their possible values
    suffixes: tuple[str, ...]
    settings: Callable[[ModelConfig], dict[str, Any]]  # what a user has to set there by hand


def conv_rows(ours: str, theirs: str, conv: str = "", norm: str = ".norm") -> tuple[Row, Row]:
    """The rows of a convolution and its norm; `conv` and `norm` are the ends of their names."""
    return (f"{ours}.conv.{{x}}", f"{theirs}{conv}.{{x}}"), (f"{ours}.norm.{{x}}", f"{theirs}{norm}.{{x}}")


def renamed(name: str, table: Sequence[Row], *, to_ours: bool) -> str | None:
    """`name` in the other naming by the first row that matches, or None."""
    found = (_translated(name, *(row[::-1] if to_ours else row)) for row in table)
    return next(filter(None, found), None)


def rename_all(tensors: Mapping[str, T], table: Sequence[Row], *, to_ours: bool) -> tuple[dict[str, T], list[str]]:
    """Every tensor under its new name, and the names that match no row. Raises `CheckpointError` if two names meet."""
    before: dict[str, str] = {}
    unknown = []
    for name in tensors:
        other = renamed(name, table, to_ours=to_ours)
        if other is None:
            unknown.append(name)
        elif before.setdefault(other, name) != name:
            raise CheckpointError(f"{before[other]} and {name} both map to {other}")
    return {other: tensors[name] for other, name in before.items()}, unknown


def _translated(name: str, source: str, target: str) -> str | None:
    pattern, offsets = _compiled(source)
    if (match := pattern.fullmatch(name)) is None:
        return None

    def value(field: re.Match[str]) -> str:
        word = field[1]
        return match[word] if word in _WORDS else str(int(match[word]) - offsets[word] + int(field[2] or 0))

    return _FIELD.sub(value, target)


@cache
def _compiled(text: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """A pattern as a regular expression, and what it adds to each of its numbers."""
    start, *rest = _FIELD.split(text)  # between the fields; then word, offset and text, again and again
    fields = list(zip(rest[::3], rest[1::3], rest[2::3], strict=True))
    groups = (f"(?P<{word}>{_WORDS.get(word, '[0-9]+')}){re.escape(after)}" for word, _, after in fields)
    return re.compile(re.escape(start) + "".join(groups)), {word: int(offset or 0) for word, offset, _ in fields}
