"""A folder of results that survives: however a run ends, what was finished is kept, and the same command goes on.

`manifest.json` says what the results are made from, and `results.jsonl` holds them. Overlays are written one by one.
All other files are made from `results.jsonl` at the end, in hidden folders, so that they are complete when they appear
and the same after an interruption as without one.
"""

import errno
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from ..categories import Category
from ..data.claim import check, claim
from ..errors import ConfigError, DataError, MaskRCNNError
from ..results import Result, check_formats
from . import ALONE, DATA_SETS, Saver, stage
from .journal import Journal
from .manifest import Manifest, differences, inputs_of, read_manifest, write_manifest
from .names import mirrored

MANIFEST = "manifest.json"
JOURNAL = "results.jsonl"
_LOCK = ".predict.lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class PredictionFolder:
    """The results of a run in folder `out`. It is a context, which holds the folder against other processes.

    Args:
        out: made if there is none.
        formats: in which results are saved.
        categories: of the model.
        paths: of all images, in the order of the results.
        names: of their results, by default `mirrored`.
        model: the SHA-256 of its file.
        settings: that decide what is found and written, by the options that set them.
        in_one_go: results depend on those before, as those of tracked objects do: an unfinished run begins again.
        overwrite: what is in the way is replaced, but never an image that is read.

    Entering it raises `ConfigError`, and leaves everything as it was, if the folder cannot be written, is in use, or
    holds the results of another command or files that would be overwritten.
    """

    def __init__(
        self,
        out: Path,
        formats: Sequence[str],
        categories: Sequence[Category],
        paths: Sequence[Path],
        *,
        names: Sequence[str] | None = None,
        model: str,
        settings: dict[str, Any],
        in_one_go: bool = False,
        overwrite: bool = False,
    ) -> None:
        check_formats(formats)
        self.out, self.formats = out, tuple(dict.fromkeys(formats))
        self.paths, self._names = list(paths), list(mirrored(paths) if names is None else names)
        self._positions = {path: i for i, path in enumerate(self.paths)}
        self._categories, self._overwrite = tuple(categories), overwrite
        self._in_one_go = in_one_go
        self._manifest = Manifest(model, settings, inputs_of(self.paths))
        self._outlines = any(name not in ("overlay", *ALONE, *DATA_SETS) for name in self.formats)
        self._journal: Journal
        self.before = 0  # results that were there already
        self.lost: dict[str, Counter[str]] = {}  # what each format could not hold, and how often; after `assemble`

    def __len__(self) -> int:
        """Finished images."""
        return len(self._journal)

    def pending(self) -> Iterator[Path]:
        """The images without a result."""
        return (path for i, path in enumerate(self.paths) if i not in self._journal)

    def add(self, result: Result) -> None:
        """Keeps the result of one of the images."""
        assert result.path is not None
        index, not_drawn = self._positions[result.path], ""
        name = self._names[index]
        with self._disk():
            if "overlay" in self.formats:
                try:
                    self._draw(result, self.out / f"{name}.png")
                except DataError as error:  # such as an image that can be read in windows only
                    not_drawn = str(error)
            self._journal.add(index, name, result, outlines=self._outlines, not_drawn=not_drawn)

    def assemble(self, written: Callable[[], None] = lambda: None) -> None:
        """Writes the files that hold all results, unless they are there, and calls `written` for each image. Memory
        does not grow with the results.
        """
        alone = [self.out / ALONE[name] for name in self.formats if name in ALONE]
        if self._manifest.assembled == len(self._journal) and all(path.exists() for path in (*alone, *self._folders())):
            return
        not_drawn = Counter[str]()
        formats = [name for name in self.formats if name != "overlay"]
        with self._disk(), Saver(self.out, formats, self._categories, inputs=self.paths, at_once=True) as saver:
            for index, line in self._journal.lines():
                if "not_drawn" in line:
                    not_drawn[f"an image ({line['not_drawn']})"] += 1
                saver.add(self._journal.result(line, self.paths[index]), self._names[index])
                written()
        self.lost = ({"overlay": not_drawn} if not_drawn else {}) | saver.lost
        self._manifest = self._manifest._replace(assembled=len(self._journal))
        with self._disk():
            write_manifest(self.out / MANIFEST, self._manifest)

    def __enter__(self) -> "PredictionFolder":
        from filelock import FileLock, Timeout

        self._test_writing()
        self._lock = FileLock(self.out / _LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another process is writing results into {self.out}; choose another --out") from None
        except (OSError, NotImplementedError) as error:
            warnings.warn(f"{self.out} allows no locks ({error}): let one process at a time write there", stacklevel=2)
        try:
            self._start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._journal.close()
        if error[0] is not None and not len(self._journal):  # nothing to go on with
            (self.out / JOURNAL).unlink(missing_ok=True)
            (self.out / MANIFEST).unlink(missing_ok=True)
        self._leave()

    def _leave(self) -> None:
        self._lock.release()
        with suppress(OSError):
            (self.out / _LOCK).unlink(missing_ok=True)

    def _test_writing(self) -> None:
        """Raises before the work starts what would end it."""
        part = self.out / f"{_LOCK}.part"
        try:
            with self._disk():
                self.out.mkdir(parents=True, exist_ok=True)
                part.write_bytes(b"can be written")
                part.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"--out {self.out} cannot be written ({reason}); choose another folder") from error

    def _start(self) -> None:
        """Goes on with what is there, or makes a new start."""
        self._check_images()
        check(*self._folders(), inputs=self.paths)
        for name in self.formats:  # parts of a process that was killed
            shutil.rmtree(stage(self.out, name), ignore_errors=True)
        for part in self.out.glob(f".{MANIFEST}.*.part"):
            part.unlink()
        old = read_manifest(self.out / MANIFEST)
        if old is not None and not self._overwrite:
            self._journal = Journal(self.out / JOURNAL, self._categories)
            if words := differences(old, self._manifest, self._journal):
                self._journal.close()
                raise ConfigError(
                    f"{self.out} holds the results of another command: {'; '.join(words)}; choose another --out, or "
                    "start anew with --overwrite"
                )
            if self._in_one_go and old.assembled != len(self._journal):
                self._journal.clear()
            self._manifest = self._manifest._replace(assembled=old.assembled)
        else:
            if old is not None:
                self._remove(old)
            elif not self._overwrite and (files := [path for path in self._targets() if path.exists()]):
                raise ConfigError(
                    f"{self.out} holds {len(files)} files that would be overwritten, such as {files[0].name}; choose "
                    "another --out, or replace them with --overwrite"
                )
            for path in self._targets():
                path.unlink(missing_ok=True)
            with self._disk():
                self._journal = Journal(self.out / JOURNAL, self._categories)
        self.before = len(self._journal)
        with self._disk():
            write_manifest(self.out / MANIFEST, self._manifest)

    def _remove(self, old: Manifest) -> None:
        """Removes what the run of another manifest wrote. Raises `ConfigError` if some of it was changed since."""
        formats = [name for name in str(old.settings.get("--save", "")).split(",") if name]
        folders = [self.out / name for name in formats if name not in ("overlay", *ALONE)]
        claim(*folders, inputs=self.paths)
        journal = Journal(self.out / JOURNAL, self._categories)
        overlays = [str(line["image_id"]) for _, line in journal.lines()] if "overlay" in formats else []
        journal.close()
        alone = [ALONE[name] for name in formats if name in ALONE]
        for name in (*(f"{name}.png" for name in overlays), *alone):
            (self.out / name).unlink(missing_ok=True)
        for inner in sorted({PurePath(name).parent for name in overlays if "/" in name}, reverse=True):
            with suppress(OSError):  # which holds other files
                (self.out / inner).rmdir()

    def _check_images(self) -> None:
        """Raises `ConfigError` if a result would take the place of an image that is read, or of another result."""
        read = {state for path in self.paths if (state := _identity(path)) is not None}
        if (used := next((path for path in self._targets() if _identity(path) in read), None)) is not None:
            raise ConfigError(f"a result would overwrite the image {used}, which is read; choose another --out")
        own = {folder.name.casefold() for folder in self._folders()}
        inner = {name.split("/")[0].casefold() for name in self._names if "/" in name}
        if "overlay" in self.formats and (both := sorted(own & inner)):
            raise ConfigError(
                f"overlays of the images in {both[0]}/ and the format {both[0]} would share a folder; "
                "save overlays with another --out"
            )

    def _folders(self) -> list[Path]:
        """Of the formats that are data sets."""
        return [self.out / name for name in self.formats if name not in ("overlay", *ALONE)]

    def _targets(self) -> Iterable[Path]:
        """All files that are written but those in the folders of formats."""
        yield from (self.out / name for name in (MANIFEST, JOURNAL))
        yield from (self.out / ALONE[name] for name in self.formats if name in ALONE)
        if "overlay" in self.formats:
            yield from (self.out / f"{name}.png" for name in self._names)

    def _draw(self, result: Result, path: Path) -> None:
        """The overlay appears when it is complete."""
        image, part = result.overlay(), stage(self.out, "overlay") / path.name
        part.parent.mkdir(exist_ok=True)
        try:
            image.save(part, compress_level=1)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
            part.parent.rmdir()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise self._full() from error
            raise

    def _full(self) -> MaskRCNNError:
        done = len(self._journal) if hasattr(self, "_journal") else 0
        return MaskRCNNError(
            f"the disk of {self.out} is full; {done} of {len(self.paths)} images are finished and kept: free some "
            "space and give the same command again, it goes on"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None if there is no such file."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino
