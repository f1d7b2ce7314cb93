"""Reading annotations of COCO's size: 118,000 pictures, 860,000 objects, drawn once. Ours beside pycocotools.

    python -m benchmarks.annotations [--quick]

Every reading has a process of its own, in turns, with the file in the page cache: seconds, memory that it holds
afterwards and at its peak, both above what the process held before. Then what a worker of our loader is sent.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from .harness import Left, Middle, Options, Row, middle, paired, require, run
from .processes import in_a_process, memory_mb

CACHE = Path(__file__).parents[1] / ".bench" / "cache"
PICTURES, PER_PICTURE, CLASSES = 118_000, 7.29, 80
SENT_MB = 1.0  # "nothing": settings and names


def compare(options: Options) -> list[Row | Left]:
    pictures, rounds = (4000, 1) if options.quick else (PICTURES, 3)
    path = drawn(pictures)
    path.read_bytes()
    found = {who: [] for who in ("ours", "pycocotools")}
    for _ in range(rounds):
        for who, figures in found.items():
            figures.append(in_a_process(["-m", "benchmarks.annotations", who, str(path)]))
    ours, theirs = found.values()
    answers = require(float(ours[0]["objects"] == theirs[0]["objects"]), 1.0, f"of {theirs[0]['objects']} objects")
    what = f"annotations of {pictures} pictures, {theirs[0]['objects']} objects"
    rows: list[Row | Left] = [
        Row(
            f"{what}: {name}", middle(column(ours, key)), unit, "pycocotools", middle(column(theirs, key)),
            paired(column(ours, key), column(theirs, key)), bar, answers=answers,
        )
        for name, key, unit, bar in (
            ("time", "seconds", "s", 0.5),
            ("memory after", "after", "MB", 0.3),
            ("memory at the peak", "peak", "MB", 1.0),
        )
    ]  # fmt: skip
    sent = Middle(*[ours[0]["sent"]] * 3)
    return [*rows, Row(f"{what}: sent to each worker of the loader", sent, "MB", bar=SENT_MB)]


def column(figures: list[dict[str, float]], key: str) -> list[float]:
    return [figure[key] for figure in figures]


def drawn(pictures: int) -> Path:
    """The json, in a folder with as many empty files: its pictures are looked for, not opened."""
    folder = CACHE / f"annotations-{pictures}"
    path = folder / "instances.json"
    if path.exists():
        return path
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for n in range(1, pictures + 1):
            name = f"{n:012}.jpg"
            (folder / "images" / name).touch()
            entry = {
                "license": 1,
                "file_name": name,
                "height": 480,
                "width": 640,
                "id": n,
                "flickr_url": "",
                "coco_url": "",
            }
            file.write(("," if n > 1 else "") + json.dumps(entry))
        file.write('], "annotations": [')
        total = 0
        for n in range(1, pictures + 1):
            for _ in range(rng.poisson(PER_PICTURE)):
                total += 1
                file.write(("," if total > 1 else "") + json.dumps(annotation(rng, n, total)))
        categories = [{"supercategory": "thing", "id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    part.rename(path)
    return path


def annotation(rng: np.random.Generator, image: int, number: int) -> dict:
    """One in a hundred is a crowd; the others have one polygon, sometimes two, of 25 points on average."""
    radius = 10 * 15 ** rng.uniform(0, 1, 2)
    centre = radius + rng.uniform(0, 1, 2) * (np.array([640, 480]) - 2 * radius)
    x, y, w, h = np.concatenate([centre - radius, 2 * radius]).round(2).tolist()
    entry = {
        "segmentation": [], "area": round(0.78 * w * h, 3), "iscrowd": 0, "image_id": image, "bbox": [x, y, w, h],
        "category_id": int(rng.integers(1, CLASSES + 1)), "id": number,
    }  # fmt: skip
    if rng.uniform() < 0.01:
        runs = np.full(200, 480 * 640 // 200)
        return entry | {"iscrowd": 1, "segmentation": {"size": [480, 640], "counts": runs.tolist()}}
    parts = 2 if rng.uniform() < 0.1 else 1
    for part in range(parts):
        angles = np.linspace(0, 2 * np.pi, int(rng.integers(8, 43)), endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = centre + radius / (1 + part) * circle * rng.uniform(0.8, 1, (len(angles), 1))
        entry["segmentation"].append(points.round(2).ravel().tolist())
    return entry


def read(who: str, path: Path) -> dict[str, float]:
    """One reading in this process."""
    if who == "ours":
        from multiprocessing.reduction import ForkingPickler

        from maskrcnn.data.formats.coco import read_coco as load
    else:
        from pycocotools.coco import COCO as load
    before, _ = memory_mb()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    start = time.perf_counter()
    held = load(str(path))
    seconds = time.perf_counter() - start
    after, peak = memory_mb()
    found = {"seconds": seconds, "after": after - before, "peak": peak - before}
    if who == "ours":
        count = int(held.annotation_counts.sum())
        return found | {"objects": count, "sent": len(ForkingPickler.dumps(held)) / 1e6}
    return found | {"objects": len(held.anns)}


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["pycocotools"]):
        print(json.dumps(read(sys.argv[1], Path(sys.argv[2]))))
    else:
        run(compare, __doc__)
