"""Weights to start a training from: rows of classes by name, every other tensor that fits, the rest as drawn."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..categories import Category
from ..weights.checkpoint import Checkpoint, adopt
from ..weights.interop.rows import carry_rows

_NAMED = 6  # names that a sentence lists


def start_from(model: nn.Module, start: Checkpoint, categories: Sequence[Category], source: str | Path) -> str:
    """Copies what fits of `start` into `model`, whose classes are `categories`; returns what became of it, in words.

    Raises `CheckpointError` with a table where the backbones are not the same.
    """
    state, kept = carry_rows(start.state, model.state_dict(), start.categories, categories)
    fresh = adopt(model, state, source)
    total = len(model.state_dict())
    words = f"start: {source}, {total - len(fresh)} of {total} tensors"
    if start.categories:
        words += f"; {_classes(kept, [category.name for category in categories])}"
    return words + (f"; new: {_listed(fresh)}" if fresh else "")


def _classes(kept: Sequence[str], names: Sequence[str]) -> str:
    if len(kept) == len(names):
        return f"all {len(names)} classes keep their rows"
    new = _listed([name for name in names if name not in set(kept)])
    if not kept:
        return f"no class has a name that is known there, so all rows of classes are new ({new})"
    return f"{len(kept)} of {len(names)} classes keep their rows ({_listed(kept)}), those of {new} are new"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
