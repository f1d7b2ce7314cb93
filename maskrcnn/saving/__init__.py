"""Saves results in any format while they come: one writer for each format over all of them.

`overlay` is NAME.png and `coco` results.json, rows of COCO's results; `csv` and `parquet` are tables of all objects.
Every other format is a data set in a folder of its own, so that files of the same name do not meet. What `predict` on
the command line adds, so that its results survive interruptions, is in `folder.py`.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from ..categories import Category
from ..data.claim import claim, move, sign
from ..data.formats import FormatWriter, writer
from ..errors import DataError
from ..files import replacing
from ..results import DATA_SETS, Result, check_formats
from .names import unique

ROWS = "results.json"
TABLES = {"csv": "objects.csv", "parquet": "objects.parquet"}
ALONE = {"coco": ROWS, **TABLES}  # formats that are one file, beside the overlays


def stage(out: Path, name: str) -> Path:
    """Where a format is written while it is not complete, if it shall appear at once."""
    return out / f".{name}.part"


class Saver:
    """Writes results into folder `out`. It is a context: what one file holds appears when the context ends.

    Args:
        out: a folder; made if there is none.
        names: of formats.
        categories: of the model.
        inputs: the images, which must not lie in a folder that is written.
        at_once: all files appear when the context ends without an error, and none before.

    Raises `ConfigError` for an unknown format, or if a folder of a format holds files that this program did not write,
    or that were changed since.
    """

    def __init__(
        self,
        out: str | Path,
        names: Sequence[str],
        categories: Sequence[Category],
        *,
        inputs: Iterable[Path] = (),
        at_once: bool = False,
    ) -> None:
        check_formats(names)
        self.out, self.names = Path(out), tuple(dict.fromkeys(names))
        self._inputs, self._at_once = list(inputs), at_once
        kinds = [name for name in self.names if name not in ("overlay", "coco")]
        places = {name: self.out if name in TABLES else self.out / name for name in kinds}
        self._folders = [place for name, place in places.items() if name not in TABLES]
        self.out.mkdir(parents=True, exist_ok=True)
        if at_once:
            places = {name: stage(self.out, name) for name in kinds}
        else:
            claim(*self._folders, inputs=self._inputs)
        self._writers: dict[str, FormatWriter] = {
            name: writer(DATA_SETS.get(name, name), place, categories) for name, place in places.items()
        }
        self._stack = ExitStack()
        rows = (stage(self.out, "coco") if at_once else self.out) / ROWS
        self._rows = self._stack.enter_context(_RowsFile(rows)) if "coco" in self.names else None
        self._images, self._objects = 0, 0
        self._taken: Counter[str] = Counter()
        self._undrawn: Counter[str] = Counter()

    @property
    def lost(self) -> dict[str, Counter[str]]:
        """What each format could not hold, and how often."""
        lost = {"overlay": self._undrawn} | {name: writer.lost for name, writer in self._writers.items()}
        return {name: some for name, what in lost.items() if (some := +what)}

    def add(self, result: Result, name: str | None = None) -> str:
        """Writes one result; returns its name, by default the image's without suffix, with a number if it was there
        before. A name may have folders, with slashes.
        """
        name = unique(result.stem, self._taken) if name is None else name
        if "overlay" in self.names:
            try:
                result.save(self.out, ["overlay"], name=name)
            except DataError as error:  # such as an image that can be read in windows only
                self._undrawn[f"an image ({error})"] += 1
        if self._rows is not None:
            self._rows.add(result.to_coco(name))
        if self._writers:
            suffix = result.path.suffix if result.path else ".png"
            record = result.record(
                self._images + 1,
                name=f"{name}{suffix}",
                first_id=self._objects + 1,
                shapes=bool(self._writers.keys() - {*TABLES, *DATA_SETS}),
            )
            for each in self._writers.values():
                each.add(record)
        self._images, self._objects = self._images + 1, self._objects + len(result)
        return name

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is not None:
                self._stack.__exit__(*error)
                return
            with self._stack.pop_all():
                for each in self._writers.values():
                    each.close()
            if self._at_once:
                self._move()
        finally:
            if self._at_once:
                for name in self.names:
                    shutil.rmtree(stage(self.out, name), ignore_errors=True)
            else:
                for folder in self._folders:  # also what an interrupted run wrote
                    sign(folder)

    def _move(self) -> None:
        """Puts everything where it belongs."""
        for name in self.names:
            if name in ALONE:
                os.replace(stage(self.out, name) / ALONE[name], self.out / ALONE[name])
            elif name != "overlay":
                move(stage(self.out, name), self.out / name, inputs=self._inputs)


class _RowsFile:
    """A JSON list that grows row by row. The file appears when it is complete."""

    def __init__(self, path: Path) -> None:
        self._stack, self._path, self._mark = ExitStack(), path, "["
        self._file: IO[str]

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self._file.write(f"{self._mark}\n{json.dumps(row)}")
            self._mark = ","

    def __enter__(self) -> "_RowsFile":
        temporary = self._stack.enter_context(replacing(self._path))
        self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._file.write("[]\n" if self._mark == "[" else "\n]\n")
        self._stack.__exit__(*error)
