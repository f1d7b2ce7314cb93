"""The page that a finished run leaves: its curves, and its best evaluation's mistakes."""

import json

from ..config import to_dict
from ..reports.run_report import read_history, write_report
from .log import LOG
from .run import METRICS, Run
from .task import Task


def leave_report(task: Task) -> None:
    """Writes `report.html` into the run's folder. If that fails it says why: a page must not cost a training."""
    run = task.run
    if not run.ranks.first:
        return
    try:
        _write(run, task)
    except (OSError, ArithmeticError, LookupError, ValueError, MemoryError) as error:
        run.ranks.say(f"{run.out / 'report.html'} could not be written: {type(error).__name__}: {error}")


def _write(run: Run, task: Task) -> None:
    shown = {"metrics": {}} if task.best is None else task.best._asdict()
    if task.best is None and (run.out / METRICS).exists():  # the best evaluation was before the run was resumed
        shown = {"metrics": json.loads((run.out / METRICS).read_text(encoding="utf-8"))}
    write_report(
        run.out,
        **shown,
        dataset=run.val_data,
        history=read_history(run.out / LOG),
        settings=to_dict(run.config),
        title=f"{run.config.model.name}, {run.out.name}",
    )
