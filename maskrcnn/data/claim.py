"""Folders that writers fill: what people made or changed there stays, what was written before is replaced.

A hidden file lists what was written, with size and time, which distinguishes an earlier run's files from the
user's own, and from those that were corrected in an annotation tool since.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ConfigError
from ..files import write_json

LIST = ".maskrcnn.json"


def check(*folders: Path, inputs: Iterable[Path] = ()) -> dict[Path, dict[str, list[int]]]:
    """The files in the folders that an earlier run wrote. Hidden files do not count.

    Raises `ConfigError` if one holds other files, files that were changed since, or one of the `inputs`.
    """
    found = {folder: dict(_files(folder)) for folder in folders}
    inputs = list(inputs)
    for folder, files in found.items():
        written = _read(folder / LIST)
        if others := sorted(name for name, state in files.items() if written.get(name) != state):
            raise ConfigError(
                f"{folder} holds {len(others)} files that were not written by maskrcnn, or were changed since, such as "
                f"{others[0]}; choose another folder, or empty this one"
            )
        if files and (used := next((path for path in inputs if _is_below(path, folder)), None)) is not None:
            raise ConfigError(f"{folder} holds {used}, which is read; choose another folder for what is written")
    return found


def claim(*folders: Path, inputs: Iterable[Path] = ()) -> None:
    """Makes the folders, and removes what an earlier run wrote there. Raises as `check`, and then removes nothing."""
    for folder, files in check(*folders, inputs=inputs).items():
        for name in files:
            (folder / name).unlink()
        for place, _, _ in os.walk(folder, topdown=False):
            if not os.listdir(place):
                os.rmdir(place)
        folder.mkdir(parents=True, exist_ok=True)


def sign(folder: Path) -> None:
    """Lists the files of a claimed folder as written by this program."""
    write_json(folder / LIST, dict(_files(folder)))


def move(source: Path, folder: Path, *, inputs: Iterable[Path] = ()) -> None:
    """Claims a folder, and moves all files of another one there. Raises as `check`.

    The list goes first: if this is interrupted, the files that came are known, and the next call replaces them.
    """
    claim(folder, inputs=inputs)
    sign(source)
    os.replace(source / LIST, folder / LIST)
    for name, _ in list(_files(source)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, folder / name)


def _files(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The files below a folder by their names, with size and time. Links are files, and are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(place, name)))):
            if not name.startswith("."):
                path = Path(place, name)
                state = path.lstat()
                yield path.relative_to(folder).as_posix(), [state.st_size, state.st_mtime_ns]


def _read(path: Path) -> dict[str, list[int]]:
    """The list of a folder; empty if there is none that can be read, so that nothing is taken for written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve()) or path.absolute().is_relative_to(folder.absolute())
