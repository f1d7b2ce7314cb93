"""python -m benchmarks.keypoints drawn
python -m benchmarks.keypoints people FOLDER

Keypoints, end to end, with two bars. `drawn`: the drawn data set with keypoints must reach a keypoint AP of 0.5 on
unseen images, with a sigma of 0.05 for each keypoint, after at most 10 minutes of training on two cores. `people`:
eight photographs with people from FOLDER (COCO's `person_keypoints_train.json` and `images/`) are learned by heart and
must reach 0.8; then the same together with eight photographs that show nobody.

Each is one training, which continues where it was stopped. Afterwards benchmarks/results/keypoints.json and .md are
written, and a few results are drawn in the run's folder. The exit code is 1 if a bar is missed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import maskrcnn
from maskrcnn.data.drawn import SIGMA, draw_dataset
from maskrcnn.demo import DATA_SEED, SETTINGS, TRAIN_IMAGES, VAL_IMAGES
from maskrcnn.reports.run_report import read_history

from .machine import facts
from .pages import RESULTS, lines_of_table, machine_lines, read_json, write_json, write_lines

MODEL = "R-18-FPN-tiny"
IMAGES = 8  # learned by heart; in the second run as many without people are added
DRAWN_EPOCHS = 6.0
DRAWN_SETTINGS = (
    *SETTINGS,
    "model.box_head.positive_fraction=0.4",
    "model.box_head.samples=32",  # 13 foreground RoIs of an image, of which a sixth has keypoints
    "model.keypoint_head.convs=4",
    "model.keypoint_head.channels=64",
    "model.keypoint_head.norm=bn",
)
PEOPLE_EPOCHS = 250.0
PEOPLE_SETTINGS = (
    "model.input.min_size=320",
    "model.box_head.smooth_l1_beta=0.1",
    "model.fpn.norm=bn",
    "model.mask_head.norm=gn",  # over each RoI alone: batches without people have no RoIs
    "model.keypoint_head.convs=4",
    "model.keypoint_head.channels=128",
    "model.keypoint_head.norm=gn",
    "train.batch=4",
    "train.optimizer=adamw",
    "train.lr=0.012",
    "train.schedule=cosine",
    "train.ema=0.98",
    "train.warmup_steps=20",
    "train.workers=0",
    "train.evaluate_every=0",
    "train.validation_loss=false",
    "train.checkpoint_every=100",
    "train.augment.horizontal_flip=0.0",
    "model.crowds=drop",  # otherwise the crowd is found too, and fills the 20 detections of an image that count
)
MINUTES = 10.0
BARS = {"drawn": 0.5, "people": 0.8, "people and nobody": 0.8}


def train_drawn(out: Path) -> dict[str, Any]:
    """The drawn data set, boxes, masks and keypoints in one model."""
    assert SIGMA == 0.05
    draw_dataset(out / "data", train=TRAIN_IMAGES, val=VAL_IMAGES, seed=DATA_SEED, keypoints=True)
    return _train(out, out / "data", None, None, DRAWN_EPOCHS, DRAWN_SETTINGS)


def train_people(out: Path, folder: Path, *, nobody: bool) -> dict[str, Any]:
    """Learns the first photographs with labelled keypoints and the first without people, and is measured on them."""
    content = json.loads((folder / "person_keypoints_train.json").read_text(encoding="utf-8"))
    chosen = photographs(content, nobody=nobody)
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    few = out / "people.json"
    write_json(few, content)
    return _train(out, few, few, folder / "images", PEOPLE_EPOCHS, PEOPLE_SETTINGS)


def photographs(content: dict[str, Any], *, nobody: bool) -> set[int]:
    """Ids of the first images with a labelled keypoint and, with `nobody`, of the first without an annotation."""
    labelled = {a["image_id"] for a in content["annotations"] if a["num_keypoints"] > 0}
    anybody = {a["image_id"] for a in content["annotations"]}
    ids = sorted(image["id"] for image in content["images"])
    chosen = [id for id in ids if id in labelled][:IMAGES]
    return {*chosen, *[id for id in ids if id not in anybody][: IMAGES * nobody]}


def _train(
    out: Path, data: Path, val: Path | None, images: Path | None, epochs: float, settings: Sequence[str]
) -> dict[str, Any]:
    """Trains a run; returns its figures, time and settings."""
    run = out / "run"
    final = maskrcnn.train(
        data,
        model=MODEL,
        recipe="paper",
        val=val,
        images=images,
        out=run,
        epochs=epochs,
        overrides=settings,
        keypoints=True,
    )
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    history = read_history(run / "log.jsonl")
    steps = [record for record in history if record["kind"] == "step"]
    for result in maskrcnn.load(final).predict(_images(val or data / "val.json", images or data / "images")):
        result.select(result.scores >= 0.5).save(out / "images", ["overlay"])
    return {
        **{task: metrics[task] for task in ("keypoint", "box", "mask")},
        "images": metrics["images"],
        "steps": steps[-1]["step"],
        "seconds": steps[-1]["seconds"],
        "evaluation_seconds": sum(record["seconds"] for record in history if record["kind"] == "evaluation"),
        "settings": [f"epochs={epochs:g}", *settings],
        "machine": facts(torch.get_num_threads()),
    }


def _images(json_path: Path, images: Path) -> list[Path]:
    """Eight of the images of a json."""
    listed = json.loads(json_path.read_text(encoding="utf-8"))["images"]
    return [images / image["file_name"] for image in listed[:8]]


def missed(name: str, found: dict[str, Any]) -> str:
    """The reasons why a bar is missed, in words; empty if it holds."""
    reasons = []
    ap = found["keypoint"]["AP"]
    if ap < BARS[name]:
        reasons.append(f"keypoint AP {ap:.3f} is below {BARS[name]}")
    if name == "drawn" and found["seconds"] > 60 * MINUTES:
        reasons.append(f"training took {found['seconds'] / 60:.1f} minutes, more than {MINUTES:g}")
    return " and ".join(reasons)


def report(results: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown of everything measured so far."""
    head = ["data", "keypoint AP", "bar", "AP50", "AP75", "box AP", "mask AP", "steps", "training", "holds"]
    rows = []
    for name in filter(results.__contains__, BARS):
        found = results[name]
        figures = [found["keypoint"][figure] for figure in ("AP", "AP50", "AP75")]
        figures += [found[task]["AP"] for task in ("box", "mask")]
        words = ["–" if figure < 0 else f"{figure:.3f}" for figure in figures]
        words.insert(1, f"{BARS[name]}")
        time = f"{found['seconds'] / 60:.1f} min"
        rows.append([name, *words, str(found["steps"]), time, "no" if missed(name, found) else "yes"])
    return [
        "# Keypoints",
        "",
        f"Model {MODEL} with boxes, masks and keypoints, from scratch. `drawn`: {TRAIN_IMAGES} drawn images, measured "
        f"on {VAL_IMAGES} others, sigma {SIGMA} for every keypoint, at most {MINUTES:g} minutes of "
        "training on two cores. "
        f"`people`: {IMAGES} photographs of COCO with people, measured on themselves; `people and nobody`: these and "
        f"{IMAGES} that show nobody. Made by `python -m benchmarks.keypoints`; the settings are in keypoints.json.",
        "",
        *lines_of_table(head, rows),
        "",
        *machine_lines(found["machine"] for found in results.values()),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["drawn", "people"])
    parser.add_argument("folder", nargs="?", type=Path, help="with person_keypoints_train.json and images/")
    parser.add_argument("--out", type=Path, default=Path("runs/keypoints"))
    args = parser.parse_args()
    if args.what == "people" and args.folder is None:
        parser.error("people needs a FOLDER with person_keypoints_train.json and images/")
    names = ["drawn"] if args.what == "drawn" else ["people", "people and nobody"]
    failed = 0
    for name in names:
        out = args.out / name.replace(" ", "-")
        if name == "drawn":
            found = train_drawn(out)
        else:
            found = train_people(out, args.folder, nobody=name != "people")
        results = {**(read_json(RESULTS / "keypoints.json") or {}), name: found}
        write_json(RESULTS / "keypoints.json", results)
        lines = report(results)
        write_lines(RESULTS / "keypoints.md", lines)
        print("\n".join(lines))
        print(f"{name}: {missed(name, found) or 'the bar holds'}; images in {out / 'images'}", flush=True)
        failed += bool(missed(name, found))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
