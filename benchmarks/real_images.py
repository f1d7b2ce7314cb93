"""python benchmarks/real_images.py nuclei|pennfudan DATA [RUN]

Trains R-18-FPN from scratch on real images, as `maskrcnn train` with the settings below, and measures it on val, which
is used for nothing else. The figures are added to benchmarks/results/real_images.json and real_images.md. DATA is a
folder with train.json, val.json and images/. RUN (default runs/NAME) is the run's folder: an interrupted run continues,
a finished one is measured again. Nuclei takes an hour on two cores, Penn-Fudan half an hour.
"""

import json
import platform
import sys
from pathlib import Path

import torch

import maskrcnn

FROM_SCRATCH = (  # docs/train.md gives the reasons
    "train.optimizer=adamw",
    "train.lr=0.006",
    "train.weight_decay=0.05",
    "train.schedule=cosine",
    "train.ema=0.995",
    "model.fpn.norm=bn",
    "model.mask_head.norm=bn",
    "train.batch=4",
    "train.workers=0",
    "train.evaluate_every=0",
)
SETTINGS = {
    "nuclei": (  # zoomed, as the nuclei of half of the images have 11 pixels
        "train.epochs=16",
        "model.input.min_size=0",
        "model.input.zoom=2",
        "model.input.max_size=4096",
        "model.anchors.sizes=[[10],[20],[40],[80],[160]]",
        "model.rpn.pre_nms_train=1000",
        "model.rpn.post_nms_train=500",
        "model.box_head.samples=96",
        "train.augment.crop=320",
        "train.augment.scale=[0.7,1.4]",
        "train.augment.vertical_flip=0.5",
        "train.augment.rotate90=true",
        "train.augment.brightness=0.2",
        "train.augment.contrast=0.2",
    ),
    "pennfudan": (  # people stand upright: anchors taller than wide
        "train.epochs=32",
        "model.input.min_size=256",
        "model.input.max_size=512",
        "model.anchors.sizes=[[16],[32],[64],[128],[256]]",
        "model.anchors.ratios=[1.0,2.0,3.0]",
        "model.rpn.pre_nms_train=1000",
        "model.rpn.post_nms_train=300",
        "model.box_head.samples=64",
        "model.box_head.smooth_l1_beta=0.1",
        "train.augment.crop=288",
        "train.augment.scale=[0.8,1.3]",
        "train.augment.brightness=0.3",
        "train.augment.contrast=0.3",
        "train.augment.saturation=0.3",
    ),
}
MAX_DETECTIONS = {"nuclei": 1000, "pennfudan": 100}
RESULTS = Path(__file__).parent / "results"


def main(name: str, data: Path, run: Path) -> None:
    """Trains, measures, writes."""
    checkpoint = maskrcnn.train(data, model="R-18-FPN", out=run, overrides=FROM_SCRATCH + SETTINGS[name])
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
        "settings": [*FROM_SCRATCH, *SETTINGS[name]],
    }
    write(found)


def write(found: dict) -> None:
    """Adds the figures of one data set to the others, and writes the table."""
    path = RESULTS / "real_images.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows[found["data"]] = found
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# R-18-FPN from scratch on real images",
        "",
        "`python benchmarks/real_images.py NAME DATA` trained and measured; the settings are in that file and in",
        "[real_images.json](real_images.json).",
        "",
        "| data | training | steps of 4 crops | mask AP | AP50 | AP75 | box AP | detections per image | machine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.values():
        mask, box = row["mask"], row["box"]
        lines.append(
            f"| {row['data']} | {row['minutes']:.0f} min | {row['steps']} "
            f"| **{mask['AP']:.3f}** | {mask['AP50']:.3f} | {mask['AP75']:.3f} | {box['AP']:.3f} "
            f"| {row['max_detections']} | {row['machine']}, {row['precision']} |"
        )
    (RESULTS / "real_images.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines[6:], sep="\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SETTINGS:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) == 4 else f"runs/{sys.argv[1]}"))
