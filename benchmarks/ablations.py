"""python -m benchmarks.ablations [--minutes N] [--tables 2c,2d]

Tables 2a to 2e and 6 of the paper in miniature: drawn images, R-18 for R-50, R-34 for R-101, 700 steps (keypoints:
1000) from random weights, three seeds for each row; and the backbones again with three times the steps and one seed.
A row that appears in several tables is trained once. Each finished run is a file in benchmarks/results/ablations/, so
that the same command continues where the last session stopped, also within a run. `--minutes` ends a session;
`--minutes 0` only prints what there is. All runs take at most four hours on two cores. Two sessions at once, with one
thread each (OMP_NUM_THREADS=1), share the runs.

The output, which is also written to benchmarks/results/ablations.md, shows the paper's figures beside ours. For each
difference between two rows of the paper it says whether ours `agrees`, `disagrees` or is `noise`, which means less than
two standard errors. The standard deviation between seeds is pooled over all rows, as three seeds of one row do not give
a good estimate.
"""

import argparse
import fcntl
import json
import math
import shutil
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

import torch

from maskrcnn.data import drawn
from maskrcnn.errors import TrainingError

from .ablation_rows import (
    BATCH,
    COMMON,
    DATA_SEED,
    KEYPOINT_STEPS,
    LONGER,
    ROWS,
    STEPS,
    TABLES,
    TRAIN_IMAGES,
    VAL_IMAGES,
    Row,
)
from .machine import facts
from .pages import RESULTS, lines_of_table, machine_lines, read_json, write_json, write_lines

FIGURES = ("AP", "AP50", "AP75")

Results = dict[str, list[dict[str, Any]]]  # by row: the figures of each finished seed
Trainer = Callable[[Row, int, Path], dict[str, Any] | None]


def described(row: Row, seed: int) -> dict[str, Any]:
    """Everything that decides the result of a run. A file of an earlier session counts only if it is the same."""
    data = {"version": drawn.VERSION, "train": TRAIN_IMAGES, "val": VAL_IMAGES, "seed": DATA_SEED}
    return {"model": row.model, "settings": [*COMMON, *row.settings], "steps": row.steps, "seed": seed, "data": data}


def collect(folder: Path) -> Results:
    """The finished runs that have today's settings."""
    found = {name: [read_json(_file(folder, name, seed)) for seed in range(row.seeds)] for name, row in ROWS.items()}
    return {
        name: [one for seed, one in enumerate(runs) if one and one["run"] == described(ROWS[name], seed)]
        for name, runs in found.items()
    }


def sit(names: Sequence[str], folder: Path, train: Trainer, time_left: Callable[[], float]) -> int:
    """Trains the missing runs, all rows with the first seed before any with the second; returns how many are left.

    `time_left` is called before each run and gives seconds. An interrupted run leaves no file; `train` may continue it
    in the next session. A run that fails, because its loss is not finite, is reported and stays missing; the others go
    on. `train` returns None if another session is training that run.
    """

    def is_missing(name: str, seed: int) -> bool:
        return (read_json(_file(folder, name, seed)) or {}).get("run") != described(ROWS[name], seed)

    missing = [(name, seed) for name, seed in _runs(names) if is_missing(name, seed)]
    failed = 0
    for done, (name, seed) in enumerate(missing):
        if time_left() <= 0:
            return len(missing) - done + failed
        if not is_missing(name, seed):
            continue
        print(f"--- {name}, seed {seed}; {_outlook(missing[done:], folder)}", flush=True)
        try:
            found = train(ROWS[name], seed, Path(_slug(name, seed)))
        except KeyboardInterrupt:
            return len(missing) - done + failed
        except TrainingError as error:
            print(f"{name}, seed {seed}: {error}", flush=True)
            failed += 1
            continue
        if found is None:
            print(f"{name}, seed {seed}: another session is training it", flush=True)
            failed += 1
            continue
        write_json(_file(folder, name, seed), {"run": described(ROWS[name], seed), **found})
    return failed


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """Rows and seeds: all first seeds before the second ones."""
    return sorted(((name, seed) for name in names for seed in range(ROWS[name].seeds)), key=lambda run: run[1])


def _outlook(missing: Sequence[tuple[str, int]], folder: Path) -> str:
    """How many runs are left and, judged by the finished ones, how long they will take."""
    took = {name: mean(run["seconds"] for run in runs) for name, runs in collect(folder).items() if runs}
    words = f"{len(missing)} runs left"
    if not took:
        return words
    minutes = sum(took.get(name, mean(took.values())) for name, _ in missing) / 60
    return f"{words}, about {minutes:.0f} minutes"


def train_drawn(out: Path) -> Trainer:
    """The real trainer: runs in folders below `out`, each removed when its figures are known."""

    def train(row: Row, seed: int, name: Path) -> dict[str, Any] | None:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / f"{name}.lock", "w") as lock:  # released with the process, however that ends
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return run_alone(row, seed, name)

    def run_alone(row: Row, seed: int, name: Path) -> dict[str, Any]:
        import maskrcnn
        from maskrcnn.reports.run_report import read_history

        with open(out / "data.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one of two sessions draws
            drawn.draw_dataset(out / "data", train=TRAIN_IMAGES, val=VAL_IMAGES, seed=DATA_SEED, keypoints=True)
        run = out / name
        settings = (*COMMON, *row.settings)
        epochs = row.steps * BATCH / TRAIN_IMAGES
        maskrcnn.train(
            out / "data", model=row.model, recipe="paper", out=run, epochs=epochs, seed=seed, overrides=settings
        )
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        records = read_history(run / "log.jsonl")
        seconds = [r["seconds"] for r in records if r["kind"] == "step"][-1:]
        seconds += [r["seconds"] for r in records if r["kind"] == "evaluation"]
        shutil.rmtree(run)
        figures = {task: metrics[task] for task in ("box", "mask", "keypoint") if task in metrics}
        return {**figures, "seconds": sum(seconds), "machine": facts(torch.get_num_threads())}

    return train


def _file(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{_slug(name, seed)}.json"


def _slug(name: str, seed: int) -> str:
    return f"{name.replace(' ', '_')}.{seed}"


# --- tables and verdicts --------------------------------------------------------------------------------------------


def values(results: Results, row: str, task: str, figure: str) -> list[float]:
    """One figure of a row, in percent, seed by seed; 0 if it could not be measured."""
    return [100 * (run[task][figure] or 0.0) for run in results.get(row, [])]


def spread(results: Results, task: str, figure: str) -> float | None:
    """The standard deviation between seeds, pooled over the rows that have the task; None without two seeds."""
    several = [values(results, row, task, figure) for row, runs in results.items() if runs and task in runs[0]]
    several = [each for each in several if len(each) > 1]
    freedom = sum(len(each) - 1 for each in several)
    return math.sqrt(sum((len(each) - 1) * variance(each) for each in several) / freedom) if freedom else None


def compare(results: Results, rows: tuple[str, str], task: str, figure: str) -> tuple[float, float] | None:
    """The difference of two rows' means, and its standard error. None if a row has no seed, or no row has two."""
    first, second = (values(results, row, task, figure) for row in rows)
    deviation = spread(results, task, figure)
    if not first or not second or deviation is None:
        return None
    return mean(first) - mean(second), deviation * math.sqrt(1 / len(first) + 1 / len(second))


def verdict(paper: float, ours: float, error: float) -> str:
    """`agrees` or `disagrees` by the signs, or `noise` if ours is less than two standard errors."""
    if abs(ours) < 2 * error or ours == 0:
        return "noise"
    return "agrees" if ours * paper > 0 else "disagrees"


def table_lines(name: str, results: Results) -> list[str]:
    """Markdown of one table: its rows, then its differences."""
    title, lines, differences = TABLES[name]
    rows = []
    for label, line in lines.items():
        ours = [values(results, line.row, line.task, figure) for figure in FIGURES]
        cells = [f"{mean(each):.1f}" if each else "–" for each in ours]
        rows.append([label, *(f"{figure:.1f}" for figure in line.figures), line.row, *cells, str(len(ours[0]))])
    head = ["paper", *FIGURES, "ours", *FIGURES, "seeds"]
    compared = []
    for one in differences:
        first, second = lines[one.first], lines[one.second]
        label = f"{one.first} − {one.second}" + (f" ({one.why})" if one.why else "")
        cells = []
        for k, figure in ((0, "AP"), (2, "AP75")):
            paper = first.figures[k] - second.figures[k]
            found = compare(results, one.ours or (first.row, second.row), first.task, figure)
            cells += [f"{paper:+.1f}", *(("–", "–") if found is None else _judged(paper, *found))]
        compared.append([label, *cells])
    second_head = ["difference", "AP, paper", "ours", "", "AP75, paper", "ours", ""]
    return [
        f"## Table {name}: {title}",
        "",
        *lines_of_table(head, rows),
        "",
        *lines_of_table(second_head, compared),
        "",
    ]


def _judged(paper: float, ours: float, error: float) -> tuple[str, str]:
    return f"{ours:+.1f} ± {error:.1f}", verdict(paper, ours, error)


def report(results: Results) -> list[str]:
    """The whole page, Markdown."""
    runs = [run for of_row in results.values() for run in of_row]
    quickest = [(len(of_row), min(run["seconds"] for run in of_row)) for of_row in results.values() if of_row]
    minutes = sum(seeds * seconds for seeds, seconds in quickest) / 60
    deviations = (
        f"{task} AP {found:.2f}" for task in ("box", "mask", "keypoint") if (found := spread(results, task, "AP"))
    )
    lines = [
        "# The paper's ablations in miniature",
        "",
        f"{TRAIN_IMAGES} drawn images of {drawn.SIDE} x {drawn.SIDE} pixels, {STEPS} steps of {BATCH} (keypoints: "
        f"{KEYPOINT_STEPS}; 2a-longer: {LONGER * STEPS}) from random weights, measured on {VAL_IMAGES} others. "
        "Networks are narrower than the paper's (32 channels in the stem, 64 in the FPN). C4 learns from 16 RoIs of an "
        "image, the others from 32. The neck and the convolutional mask branch have norms. Our figures are means over "
        "seeds; ± is one standard error of the difference, and `noise` is less than two.",
        "",
        f"{len(runs)} of {len(_runs(list(ROWS)))} runs; {minutes:.0f} minutes in one session if each run were as fast "
        f"as the fastest of its row (some shared their core or were paused). Standard deviation between seeds, pooled "
        f"over all rows: {', '.join(deviations) or 'not known yet'}.",
        "",
    ]
    for name in TABLES:
        lines += table_lines(name, results)
    return [*lines, *machine_lines(run["machine"] for run in runs)]


def wanted(tables: str) -> list[str]:
    """The rows that these tables need, in the order of `ROWS`."""
    names = tables.split(",") if tables else list(TABLES)
    unknown = sorted(set(names) - TABLES.keys())
    if unknown:
        raise SystemExit(f"there is no table {', '.join(unknown)}; the tables are {', '.join(TABLES)}")
    rows = {line.row for name in names for line in TABLES[name].lines.values()}
    rows |= {row for name in names for one in TABLES[name].differences if one.ours for row in one.ours}
    return [name for name in ROWS if name in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="length of this session")
    parser.add_argument("--tables", default="", help="such as 2c,2d; by default all")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablations"), help="folder for images and unfinished runs"
    )
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    if 0 < args.minutes < math.inf:
        timer = threading.Timer(60 * args.minutes, interrupt_main)  # as Ctrl-C: the run is saved within a step
        timer.daemon = True
        timer.start()
    names = wanted(args.tables)
    left = sit(names, RESULTS / "ablations", train_drawn(args.out), lambda: ends - time.monotonic())
    lines = report(collect(RESULTS / "ablations"))
    write_lines(RESULTS / "ablations.md", lines)
    print("\n".join(lines))
    print(f"{left} of {len(_runs(names))} runs are left; the same command continues" if left else "all runs are done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
