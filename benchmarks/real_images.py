"""python benchmarks/real_images.py nuclei|pennfudan DATA [RUN [SEED]]

Trains R-18-FPN from scratch on real images with no other setting, as `maskrcnn train DATA --model R-18-FPN`, and
measures it on val, which also chooses the best of the run's evaluations. The figures are added to
benchmarks/results/real_images.json and real_images.md. DATA is a folder with train.json, val.json and images/. RUN
(default runs/NAME) is the run's folder: an interrupted run continues, a finished one is measured again. Nuclei takes an
hour on two cores, Penn-Fudan half an hour.
"""

import json
import platform
import sys
from pathlib import Path

import torch

import maskrcnn

MAX_DETECTIONS = {"nuclei": 1000, "pennfudan": 100}
RESULTS = Path(__file__).parent / "results"


def main(name: str, data: Path, run: Path, seed: int | None) -> None:
    """Trains, measures, writes."""
    checkpoint = maskrcnn.train(data, model="R-18-FPN", out=run, seed=seed)
    metrics = maskrcnn.evaluate(checkpoint, data, max_detections=MAX_DETECTIONS[name])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [record for record in log if "seconds_per_step" in record][-1]
    found = {
        "data": name,
        "steps": last["step"],
        "minutes": round(last["seconds"] / 60, 1),
        "memory_gib": round(last["memory_gib"], 1),
        "max_detections": MAX_DETECTIONS[name],
        "box": metrics["box"],
        "mask": metrics["mask"],
        "evaluation_seconds": round(metrics["seconds"], 1),
        "precision": metrics["precision"],
        "torch": torch.__version__,
        "machine": f"{torch.get_num_threads()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "seed": seed or 0,
        "config": (run / "config.toml").read_text(encoding="utf-8").splitlines(),
    }
    write(found)


def write(found: dict) -> None:
    """Adds the figures of one data set and seed to the others, and writes the table."""
    path = RESULTS / "real_images.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows[f"{found['data']}, seed {found['seed']}"] = found
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# R-18-FPN from scratch on real images",
        "",
        "`python benchmarks/real_images.py NAME DATA` trained and measured. No setting was given; those that",
        "the recipe chose are in [real_images.json](real_images.json).",
        "",
        "| data, seed | training | steps of 4 crops | mask AP | AP50 | AP75 | box AP | detections | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.values():
        mask, box = row["mask"], row["box"]
        lines.append(
            f"| {row['data']}, {row.get('seed', 'settings by hand')} | {row['minutes']:.0f} min | {row['steps']} "
            f"| **{mask['AP']:.3f}** | {mask['AP50']:.3f} | {mask['AP75']:.3f} | {box['AP']:.3f} "
            f"| {row['max_detections']} | {row['machine']}, {row['precision']} |"
        )
    (RESULTS / "real_images.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines[6:], sep="\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5) or sys.argv[1] not in MAX_DETECTIONS:
        sys.exit(__doc__)
    name, data, run, seed = [*sys.argv[1:], *[None] * (5 - len(sys.argv))]
    assert name is not None
    assert data is not None
    main(name, Path(data), Path(run or f"runs/{name}"), None if seed is None else int(seed))
