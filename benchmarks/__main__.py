"""All comparisons, each in a new process, and one table of them.

    python -m benchmarks [--quick] [--only inference,masks] [--threads 2] [--results FOLDER]

--quick leaves out the comparisons that take long, and makes fewer rounds of the others. Writes cpu.md and cpu.json
(cpu-quick.* with --quick, cpu-partial.* with --only). The exit code is 1 if a comparison fails or its answers differ.
Missed bars are counted and shown, but do not change the exit code.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .harness import Left, Row, from_json, table
from .machine import facts
from .processes import ROOT

COMPARISONS = (
    "inference",
    "folder",
    "stages",
    "models",
    "agreement",
    "training",
    "data_loader",
    "roi_align",
    "masks",
    "memory",
    "footprint",
    "loading",
    "evaluation",
    "annotations",
    "start",
    "tiling",
    "tracking",
)
QUICK = ("inference", "stages", "training", "data_loader", "roi_align", "masks", "evaluation", "annotations")


def main() -> int:
    options = arguments()
    names = options.only.split(",") if options.only else QUICK if options.quick else COMPARISONS
    if unknown := sorted(set(names) - set(COMPARISONS)):
        sys.exit(f"there is no comparison {', '.join(unknown)}; there are {', '.join(COMPARISONS)}")
    began, found = time.perf_counter(), {}
    for name in names:
        print(f"--- {name}", flush=True)
        found[name] = compare(name, options)
    rows = [row for one in found.values() for row in one]
    kind = "cpu-quick" if options.quick else "cpu-partial" if options.only else "cpu"
    machine = facts(options.threads) | {"seconds": round(time.perf_counter() - began)}
    options.results.mkdir(parents=True, exist_ok=True)
    text = report(rows, machine)
    (options.results / f"{kind}.md").write_text(text)
    content = {"machine": machine, "comparisons": {name: [as_dict(row) for row in one] for name, one in found.items()}}
    (options.results / f"{kind}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(text)
    return int(any(isinstance(row, Left) and row.why.startswith("FAILED") for row in rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only comparisons that take little time, with fewer rounds and smaller sizes; under 5 minutes",
    )
    parser.add_argument("--only", help=f"names, separated by commas, of {', '.join(COMPARISONS)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def compare(name: str, options: argparse.Namespace) -> list[Row | Left]:
    """The rows of one comparison, which runs in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--threads", str(options.threads), "--out", str(out)]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        environment["OMP_NUM_THREADS"] = str(options.threads)
        done = subprocess.run(
            [*command, *(["--quick"] if options.quick else [])], cwd=ROOT, env=environment, check=False
        )
        if done.returncode or not out.exists():
            return [Left(name, f"FAILED with exit code {done.returncode}; its error is printed above")]
        return from_json(out.read_text())


def report(rows: list[Row | Left], machine: dict) -> str:
    """Markdown: the machine, the table, and what was not compared."""
    measured = [row for row in rows if isinstance(row, Row)]
    left = [row for row in rows if isinstance(row, Left)]
    missed = sum(row.verdict == "MISS" for row in measured)
    barred = sum(bool(row.verdict) for row in measured)
    lines = [
        "# Measured on a CPU",
        "",
        "Written by `make bench`. Figures are medians with quartiles in brackets, or single measurements without. A",
        "ratio is the median over rounds in which the contestants take turns, in one process or, if the time or memory",
        "of a whole process is measured, in one process each. Compare ratios: seconds depend on the machine.",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        f"- bars: {barred - missed} of {barred} hold",
        "",
        table(measured),
        "",
        *(f"- not compared: {row.what}: {row.why}" for row in left),
    ]
    return "\n".join(lines).rstrip() + "\n"


def as_dict(row: Row | Left) -> dict:
    return row._asdict() | ({"verdict": row.verdict} if isinstance(row, Row) else {})


if __name__ == "__main__":
    sys.exit(main())
