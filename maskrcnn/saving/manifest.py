"""What results were made from: the model, the settings and the images. The same command goes on with its own results
and never mixes them with those of another one.
"""

import json
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import write_json


class Input(NamedTuple):
    """An image, as it was when it was predicted. Size in bytes and time in nanoseconds; None if it cannot be read."""

    path: str  # absolute
    size: int | None
    mtime: int | None


class Manifest(NamedTuple):
    """What a folder of results was made from."""

    model: str  # SHA-256 of its file
    settings: dict[str, Any]  # by option
    inputs: list[Input]
    assembled: int = -1  # how many results are in the files that hold all of them; -1: they were not written yet


def inputs_of(paths: Sequence[Path]) -> list[Input]:
    """The images as they are now."""
    return [_input(os.path.abspath(path)) for path in paths]


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes it atomically."""
    write_json(path, manifest._asdict())


def read_manifest(path: Path) -> Manifest | None:
    """The manifest in a file, or None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        inputs = [Input(str(path), size, mtime) for path, size, mtime in content["inputs"]]
        return Manifest(str(content["model"]), dict(content["settings"]), inputs, int(content["assembled"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def differences(old: Manifest, new: Manifest, done: Container[int]) -> list[str]:
    """Why the results of `old` cannot go on as those of `new`, in words; empty if they can.

    `done` are the positions of the images that have a result: another one may have been mended since.
    """
    words = ["the model is another one"] if old.model != new.model else []
    words += _other_settings(old.settings, new.settings)
    before, now = ({one.path: one for one in manifest.inputs} for manifest in (old, new))
    changed = [one.path for i, one in enumerate(old.inputs) if i in done and now.get(one.path, one) != one]
    for what, paths in (
        ("new", [path for path in now if path not in before]),
        ("not among them any more", [path for path in before if path not in now]),
        ("changed since", changed),
    ):
        if paths:
            count = f"{len(paths)} images are" if len(paths) > 1 else "1 image is"
            words.append(f"{count} {what}, such as {paths[0]}" if len(paths) > 1 else f"{paths[0]} is {what}")
    return words


def _other_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys((*old, *new))
    return [
        f"{name} was {_text(old.get(name))} and is {_text(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _text(value: Any) -> str:
    return "not given" if value is None else str(value)


def _input(path: str) -> Input:
    try:
        state = os.stat(path)
    except OSError:
        return Input(path, None, None)
    return Input(path, state.st_size, state.st_mtime_ns)
