"""Callbacks: objects that hear what happens in a training, in the process of its first rank.

A callback has some of these methods; each takes a dict of plain numbers and words, `docs/train.md` lists what is in it:

    on_start        before the first step of this start
    on_step         after the first steps and every `train.log_every`
    on_evaluation   after an evaluation
    on_images       after an evaluation: `images` holds Pillow images by name, the ground truth beside the detections
    on_end          in any case, also after an error

The logs that the package comes with are such objects, one file each.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import ConfigError

Record = Mapping[str, Any]
EVENTS = ("start", "step", "evaluation", "images", "end")
LOGS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}  # file of this folder: its class


class Callbacks:
    """Tells all callbacks of an event. `own` are parts of the run; an error of one of `others` never ends the run: it
    is said once, and counted.
    """

    def __init__(self, own: Sequence[Any], others: Sequence[Any], say: Callable[[str], None]) -> None:
        self._own, self._others, self._say = own, others, say
        self._failures: Counter[int] = Counter()  # by the place of the callback

    def __call__(self, event: str, record: Record) -> None:
        self.when_wanted(event, lambda: record)

    def when_wanted(self, event: str, make: Callable[[], Record]) -> None:
        """The same with a record that is made only if a callback hears of this event."""
        made = cache(make)
        for callback in self._own:
            if act := getattr(callback, f"on_{event}", None):
                act(dict(made()))
        for i, callback in enumerate(self._others):
            if act := getattr(callback, f"on_{event}", None):
                try:
                    act(dict(made()))
                except Exception as error:  # code of others may raise anything
                    self._tell_failure(i, event, error)
        if event == "end":
            for i, count in self._failures.items():
                if count > 1:
                    self._say(f"callback {name_of(self._others[i])} failed {count} times, see its first failure above")

    def _tell_failure(self, i: int, event: str, error: Exception) -> None:
        self._failures[i] += 1
        if self._failures[i] == 1:
            at = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno})"
            self._say(f"callback {name_of(self._others[i])} failed in on_{event}, the training goes on: {what}")


def name_of(callback: Any) -> str:
    """What messages call a callback: its class, or the module that it is."""
    return getattr(callback, "__name__", type(callback).__name__)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises `ConfigError` for what could never hear anything."""
    for callback in callbacks:
        if isinstance(callback, type):
            raise ConfigError(f"callbacks takes objects; {callback.__name__} is a class: write {callback.__name__}()")
        if not any(callable(getattr(callback, f"on_{event}", None)) for event in EVENTS):
            known = ", ".join(f"on_{event}" for event in EVENTS)
            raise ConfigError(f"the callback {name_of(callback)} has none of the methods {known}")


def open_logs(names: str | None, out: Path) -> list[Any]:
    """The logs of these names, separated by commas, of a run in the folder `out`.

    Raises `ConfigError` for another name, and with the extra to install if a library is missing.
    """
    logs = []
    for name in [word.strip() for word in (names or "").split(",") if word.strip()]:
        if name not in LOGS:
            raise ConfigError(f"log is some of {', '.join(LOGS)}, separated by commas; it got {name!r}")
        try:
            logs.append(getattr(import_module(f".{name}", __name__), LOGS[name])(out))
        except ImportError as error:
            raise ConfigError(f"{LOGS[name]} is not installed: pip install 'maskrcnn[{name}]' ({error})") from error
    return logs


def kept_id(path: Path, *, new: bool, make: Callable[[], str]) -> str:
    """The id under which a service knows this run: that in the file or, for a `new` run, a fresh one, written there."""
    if new or not path.exists():
        path.write_text(make() + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def numbers(record: Record) -> dict[str, float]:
    """The numbers of a record, nested ones with "/" between the names; those that were not measured are left out."""
    rows: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            rows |= {f"{name}/{part}": number for part, number in numbers(value).items()}
        elif isinstance(value, (int, float)) and name != "step":
            rows[name] = float(value)
    return rows
