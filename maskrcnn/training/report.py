"""The page that a finished run leaves: its curves, and its best evaluation's mistakes. And images of any evaluation."""

import json

import numpy as np
from PIL import Image

from ..config import to_dict
from ..errors import DataError
from ..reports.mistakes import draw_mistakes
from ..reports.run_report import read_history, write_report
from .log import LOG
from .run import METRICS, Run
from .task import Task

_DRAWN = 4  # images of an evaluation


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


def drawn_images(task: Task) -> dict[str, Image.Image]:
    """A few validation images by name, the same ones each time: the ground truth and, right of it, the detections."""
    data, found = task.run.val_data, task.measured
    if data is None or found is None:
        return {}
    filled = np.flatnonzero(data.annotation_counts)
    shown = {}
    for i in filled[np.linspace(0, len(filled) - 1, min(_DRAWN, len(filled))).astype(int)].tolist():
        try:
            truth, detections = draw_mistakes(data, found.judgement, found.thresholds, i)
        except DataError:  # the evaluation has counted it already
            continue
        shown[data.name(i)] = pair = Image.new("RGB", (truth.width + detections.width, truth.height))
        pair.paste(truth, (0, 0))
        pair.paste(detections, (truth.width, 0))
    return shown
