"""What a run reports: losses, collected step by step, and the callbacks of every run, for its file and the console."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from ..files import replacing, write_json
from ..reports.run_report import read_history
from .callbacks import Record
from .callbacks.csv import CsvTable
from .run import Run

LOG = "log.jsonl"
NORM = "gradient_norm"


class Meter:
    """The losses of the steps since the last record: their means, and whether all are finite.

    They stay on their device until `check` looks at them, because looking makes the host wait for a GPU.
    """

    def __init__(self, run: Run, seconds: float = 0.0) -> None:
        self._run = run
        self._new: dict[int, tuple[list[Tensor], dict[str, Tensor]]] = {}  # by step: image ids, values; not checked yet
        self._sums: dict[str, Tensor] = {}  # over the steps that were checked
        self._count = 0
        self._read_at = seconds

    def add(self, step: int, values: Mapping[str, Tensor], image_ids: Tensor | None = None, parts: int = 1) -> None:
        """Adds scalars of a step, or of one of its equal `parts`, and the ids of the images that they come from."""
        ids, sums = self._new.setdefault(step, ([], {}))
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.detach().float() / parts
        if image_ids is not None:
            ids.append(image_ids)

    def check(self) -> None:
        """Raises `TrainingError`, on every rank, if a value of any rank is not finite; lists the images in a file."""
        new, self._new = self._new, {}
        if not new:
            return
        for _, values in new.values():
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0) + value
        self._count += len(new)
        ranks, path = self._run.ranks, self._run.out / "not_finite.json"
        ignored = NORM if self._run.precision == "fp16" else ""  # it may overflow: the scaler leaves out such a step
        names = [name for name in self._sums if name != ignored]
        finite = torch.stack([values[name] for _, values in new.values() for name in names]).isfinite()
        good = finite.view(len(new), -1).all(1).tolist()
        bad = next((step for step, fine in zip(new, good, strict=True) if not fine), None)
        if not ranks.any(bad is not None):
            return
        mine = None
        if bad is not None:
            ids, values = new[bad]
            mine = bad, torch.cat(ids).tolist() if ids else [], {name: str(float(values[name])) for name in names}
        found = ranks.from_first([row for row in ranks.gather(mine) or [] if row is not None])
        step, _, losses = min(found, key=lambda row: row[0])
        ids = sorted(image_id for row in found if row[0] == step for image_id in row[1])
        if ranks.first:
            write_json(path, {"step": step + 1, "image_ids": ids, "losses": losses})
        shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        values = ", ".join(f"{name} {value}" for name, value in losses.items())
        raise TrainingError(
            f"the loss is not finite at step {step + 1} ({values}), images {shown}; {path} lists them. "
            "A lower train.lr or a longer train.warmup_steps usually helps"
        )

    def read(self, seconds: float) -> tuple[dict[str, float], float]:
        """The means of this rank since the last reading, and the seconds per step. `seconds` is the time now."""
        self.check()
        if not self._count:
            return {}, 0.0
        means = (torch.stack(list(self._sums.values())) / self._count).tolist()
        result = dict(zip(self._sums, means, strict=True)), (seconds - self._read_at) / self._count
        self._sums, self._count, self._read_at = {}, 0, seconds
        return result


def own_callbacks(run: Run) -> list[Any]:
    """Those of every run: log.jsonl, log.csv and the console."""
    return [JsonLines(run.out / LOG), CsvTable(run.out / LOG), Console(run.steps)]


class JsonLines:
    """One line a record. A start drops what an earlier start wrote after the step that is resumed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, record: Record) -> None:
        if self._path.exists():
            kept = [old for old in read_history(self._path) if old.get("step", 0) <= record["step"]]
            with replacing(self._path) as temporary:
                temporary.write_text("".join(json.dumps(old) + "\n" for old in kept), encoding="utf-8")
        self._add("start", {"step": record["step"], "steps": record["steps"]})

    def on_step(self, record: Record) -> None:
        self._add("step", record)

    def on_evaluation(self, record: Record) -> None:
        self._add("evaluation", record)

    def on_end(self, record: Record) -> None:
        self._add("end", record)

    def _add(self, kind: str, record: Record) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **record}) + "\n")


class Console:
    """One line an interval in a pipe; on a terminal a bar with what fits beside it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: Any = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(BarColumn(bar_width=20), TextColumn("{task.description}"))
            self._task = self._bar.add_task("", total=total)

    def on_step(self, record: Record) -> None:
        if self._bar is None:
            print(_step_line(record, self._total), flush=True)
            return
        beside = (  # fits on a terminal of 80 columns
            f"{record['step']}/{self._total} loss {record['loss']:.3f} lr {record['lr']:.2g} "
            f"{record['seconds_per_step']:.2f} s/step eta {_rest(record)}"
        )
        self._bar.start()
        self._bar.update(self._task, completed=record["step"], description=beside)

    def on_evaluation(self, record: Record) -> None:
        if self._bar is None:
            print(_evaluation_line(record), flush=True)
        else:
            self._bar.console.print(_evaluation_line(record), markup=False, highlight=False)

    def on_end(self, record: Record) -> None:
        if self._bar is not None:
            self._bar.stop()


def _step_line(record: Mapping[str, Any], total: int) -> str:
    losses = " ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
    return (
        f"step {record['step']}/{total} epoch {record['epoch']:.2f} loss {record['loss']:.3f} ({losses}) "
        f"lr {record['lr']:.2g} {record['seconds_per_step']:.2f} s/step {record['memory_gib']:.1f} GiB "
        f"eta {_rest(record)}"
    )


def _rest(record: Mapping[str, Any]) -> str:
    """How long the rest takes. No number is better than one that holds the compilation of kernels."""
    if record["eta_seconds"] is None:
        return "soon"
    more = record["eta_without_evaluations"]
    return duration(record["eta_seconds"]) + (f" + {more} evaluation{'s' if more > 1 else ''}" if more else "")


def _evaluation_line(record: Mapping[str, Any]) -> str:
    scores = " ".join(
        f"{kind} {name} {_figure(values[name])} {name}50 {_figure(values[name + '50'])}"
        for kind, values in record["metrics"].items()
        for name in ("AP", "AR")
        if isinstance(values, Mapping) and name in values
    )
    loss = f" validation loss {record['loss']:.3f}" if record.get("loss") is not None else ""
    mark = " (best so far)" if record.get("best") else ""
    return f"step {record['step']}: {scores}{loss}, {record['seconds']:.0f} s{mark}"


def _figure(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """h:mm:ss"""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def peak_memory_gib(device: torch.device) -> float:
    """The peak memory so far: of the GPU if the run has one, else of the process; NaN if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
