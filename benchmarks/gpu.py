"""python benchmarks/gpu.py [--minutes 8.5] [--only checks,detection-8] [--out benchmarks/results]

For a machine with an NVIDIA GPU; takes less than nine minutes. First kernels are compared with their references, then
R-50-FPN on 800 x 1344 is timed, detection and training, ours beside torchvision (and Detectron2 if it can be imported)
at batch 8, 1 and 16. Each section runs in a new process: if one fails, hangs or breaks the device, that is reported,
and the others go on. Rows are printed and written as they come, to gpu_<device>_<month>.json and .md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

LEAST = 20  # no section is started if fewer seconds are left
LEGEND = """The same weights, images and objects for all; from pixels on the GPU to boxes and 28 x 28 masks there. cuDNN
searches for the fastest algorithms; in training, torchvision is also measured without that search, and its faster
figure counts.
ms: p20, median and p80 of seven rounds in turns, of calls that follow each other; alone: of one call on an idle device.
GiB: what a call takes beyond what is allocated; for a graph, what it reserves, gradients included.
Products: the share of device time in convolutions and matrix products. Waits: how often the host waits for the device,
as far as torch notices it.
""".split("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.5, help="when to stop, even if sections are left")
    parser.add_argument("--only", default="", help="names of sections, separated by commas")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py measures on an NVIDIA GPU, but torch finds none here: nothing was run", file=sys.stderr
        )
        return 2
    from benchmarks.gpu_sections import SECTIONS

    if args.section:
        return child(args.section, args.rows)
    wanted = args.only.split(",") if args.only else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        print(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    deadline = time.monotonic() + args.minutes * 60
    rows: list[dict[str, Any]] = []
    for name in wanted:
        left = deadline - time.monotonic()
        if left < LEAST:
            rows.append(printed({"section": name, "kind": "note", "text": "not run: the time is up"}))
            continue
        rows += run_section(name, min(SECTIONS[name].seconds, left))
        write(args.out, rows, partial=bool(args.only))
    write(args.out, rows, partial=bool(args.only))
    return 0 if all(row.get("passed", True) for row in rows) else 1


def run_section(name: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of a section. It runs in a new process, which is stopped after `seconds`."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.touch()
        process = subprocess.Popen(
            [sys.executable, __file__, "--section", name, "--rows", str(path)], start_new_session=True
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # also the compilers that it started
                process.wait()
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    took = round(time.monotonic() - started, 1)
    ended = {0: "done", None: f"stopped after {seconds:.0f} s"}.get(code, f"failed with exit code {code}")
    rows.append(printed({"section": name, "kind": "section", "seconds": took, "ended": ended, "passed": code == 0}))
    return rows


def child(name: str, path: Path) -> int:
    """Runs one section and adds its rows to the file as they come."""
    from benchmarks.gpu_sections import SECTIONS

    def report(row: Mapping[str, Any]) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(printed({"section": name, **row})) + "\n")

    try:
        SECTIONS[name].run(report)
    except Exception:
        report({"kind": "failure", "failure": traceback.format_exc(limit=-6)})
        return 1
    return 0


def printed(row: dict[str, Any]) -> dict[str, Any]:
    """Prints a row, without the kernels of its profile, and returns it."""
    shown = {key: value for key, value in row.items() if key != "profile"}
    if profile := row.get("profile"):
        shown["products_share"], shown["kernels"] = profile["products_share"], profile["kernels"]
    print(json.dumps(shown), flush=True)
    return row


def write(folder: Path, rows: list[dict[str, Any]], *, partial: bool) -> None:
    """Everything as JSON, and the tables as Markdown. A `partial` run does not overwrite the files of a whole one."""
    found = next((row for row in rows if row["kind"] == "machine"), {"gpu": "unknown GPU"})
    name = f"gpu_{'-'.join(str(found['gpu']).lower().split())}_{time.strftime('%Y-%m')}{'_partial' * partial}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(found, rows))


def markdown(found: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The tables."""
    lines = [f"# R-50-FPN, 800 x 1344, bf16, channels-last, on {found['gpu']}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in found.items() if key not in ("section", "kind")), ""]
    lines += [
        *LEGEND,
        "| what | batch | who | images/s | of torchvision | ms | alone | GiB | products | device ms | waits |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_measured(row, rows) for row in rows if row["kind"] == "measurement"]
    lines += ["", "| operator | who | ms |", "|---|---|---|"]
    lines += [f"| {row['name']} | {row['who']} | {_times(row)} |" for row in rows if row["kind"] == "operator"]
    lines += ["", "| check | passed | error | tolerance |", "|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {'yes' if row['passed'] else 'NO'} | {row.get('error', '')} | {row.get('tolerance', '')} |"
        for row in rows
        if row["kind"] in ("check", "answers")
    ]
    remarks = [row for row in rows if row["kind"] in ("failure", "note") or row.get("ended", "done") != "done"]
    lines += ["", *(f"- {_remark(row)}" for row in remarks), ""]
    return "\n".join(lines)


def _measured(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    beside = [other for other in rows if other["kind"] == "measurement" and other["section"] == row["section"]]
    rivals = (other["images_per_second"] for other in beside if other["who"].startswith("torchvision"))
    rival = max(rivals, default=None)
    ratio = f"{row['images_per_second'] / rival:.2f}" if rival else ""
    profile = row["profile"] or {}
    share = profile.get("products_share")
    cells = [row["what"], row["batch"], row["who"], row["images_per_second"], ratio, _times(row), row["alone"]]
    cells += [row["peak_gib"], f"{share:.0%}" if share is not None else "", profile.get("device_ms", ""), row["waits"]]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _times(row: Mapping[str, Any]) -> str:
    return f"{row['p20']} {row['ms']} {row['p80']}"


def _remark(row: Mapping[str, Any]) -> str:
    text = row.get("text") or row.get("failure") or f"section {row['ended']}"
    last = str(text).strip().splitlines()[-1]
    return ": ".join(str(part) for part in (row["section"], row.get("who"), last) if part)


if __name__ == "__main__":
    sys.exit(main())
