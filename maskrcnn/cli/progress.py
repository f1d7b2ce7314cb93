"""How far a command has come: a bar with rate and time left on a terminal, else a line every ten seconds."""

import sys
import time
from contextlib import ExitStack
from typing import Any

EVERY = 10.0  # seconds between lines
FEW = 20  # images up to which there is a line for each


class Progress:
    """Of `total` images, `done` of which were there before; `what` is said of them. It is a context. What it tells goes
    to standard error, but for the lines of single images, which are results.
    """

    def __init__(self, total: int, done: int = 0, *, what: str = "images", quiet: bool = False) -> None:
        self._what = what
        self._total, self._before, self._done, self._quiet = total, done, done, quiet
        self._began = self._told = time.monotonic()
        self._stack = ExitStack()
        self._bar: Any = None
        self.few = total - done <= FEW

    def add(self, line: str = "") -> None:
        """One more image is finished; `line` says what was found, and is printed if there are few."""
        self._done += 1
        if self._quiet:
            return
        if self.few and line:
            print(line)
        elif self._bar is not None:
            self._bar.update(0, completed=self._done, rate=self.rate())
        elif time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            print(f"{self._done} of {self._total} {self._what}, {self.rate()}, {self._left()} left", file=sys.stderr)

    def rate(self) -> str:
        """Images per second of this run, or seconds an image."""
        each = (time.monotonic() - self._began) / max(self._done - self._before, 1)
        return f"{1 / max(each, 1e-9):.1f} images/s" if each < 1 else f"{each:.1f} s an image"

    def __enter__(self) -> "Progress":
        self._began = self._told = time.monotonic()
        if not self._quiet and not self.few and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
            )
            bar = progress.Progress(*columns, console=Console(stderr=True))
            self._bar = self._stack.enter_context(bar)
            self._bar.add_task(self._what, total=self._total, completed=self._done, rate="")
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _left(self) -> str:
        each = (time.monotonic() - self._began) / max(self._done - self._before, 1)
        minutes, seconds = divmod(round(each * (self._total - self._done)), 60)
        hours, minutes = divmod(minutes, 60)
        return (
            f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
        )
