"""Reading annotations of COCO's size, 118,000 images with 860,000 objects, drawn once: ours beside pycocotools.

    python -m benchmarks.annotations [--quick]

Each reading is a new process; they take turns, with the file in the page cache. Measured are seconds, and memory
afterwards and at the peak, both beyond what the process held before. Then the memory that a spawned worker shares with
no other process after it has looked at every object, beyond that of a worker without the data set.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .harness import Left, Middle, Options, Row, middle, paired, require, run
from .processes import in_a_process, memory_mb

CACHE = Path(__file__).parents[1] / ".bench" / "cache"
IMAGES, PER_IMAGE, CLASSES = 118_000, 7.29, 80
ADDED_MB = 10.0  # that count as nothing: names, settings, what allocators round up


def compare(options: Options) -> list[Row | Left]:
    images, rounds = (12_000, 1) if options.quick else (IMAGES, 3)
    path = drawn(images)
    in_a_process(["-m", "benchmarks.annotations", "ours", str(path)])
    found = {who: [] for who in ("ours", "pycocotools")}
    for _ in range(rounds):
        for who, figures in found.items():
            figures.append(in_a_process(["-m", "benchmarks.annotations", who, str(path)]))
    ours, theirs = found.values()
    answers = require(float(ours[0]["objects"] == theirs[0]["objects"]), 1.0, f"of {theirs[0]['objects']} objects")
    what = f"annotations of {images} images, {theirs[0]['objects']} objects"
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
    added = Middle(*[in_a_process(["-m", "benchmarks.annotations", "workers", str(path)])["added"]] * 3)
    return [*rows, Row(f"{what}: memory that each worker adds", added, "MB", bar=ADDED_MB)]


def column(figures: list[dict[str, float]], key: str) -> list[float]:
    return [figure[key] for figure in figures]


def drawn(images: int) -> Path:
    """The json, in a folder with an empty file for each image: readers look for them but do not open them."""
    folder = CACHE / f"annotations-2-{images}"  # the first number counts the changes of what is drawn
    path = folder / "instances.json"
    if path.exists():
        return path
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for n in range(1, images + 1):
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
        for n in range(1, images + 1):
            for _ in range(rng.poisson(PER_IMAGE)):
                total += 1
                file.write(("," if total > 1 else "") + json.dumps(annotation(rng, n, total)))
        categories = [{"supercategory": "thing", "id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    part.rename(path)
    return path


def annotation(rng: np.random.Generator, image: int, number: int) -> dict:
    """An object. One in a hundred is a crowd; others have one polygon, sometimes two, of 25 points on average."""
    radius = 10 * 15 ** rng.uniform(0, 1, 2)
    centre = radius + rng.uniform(0, 1, 2) * (np.array([640, 480]) - 2 * radius)
    parts = []
    for part in range(2 if rng.uniform() < 0.1 else 1):
        angles = np.linspace(0, 2 * np.pi, int(rng.integers(8, 43)), endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = centre + radius / (1 + part) * circle * rng.uniform(0.8, 1, (len(angles), 1))
        parts.append(points.round(2))
    low, high = np.concatenate(parts).min(0), np.concatenate(parts).max(0)
    w, h = (high - low).tolist()
    entry = {
        "segmentation": [points.ravel().tolist() for points in parts], "area": round(0.78 * w * h, 3), "iscrowd": 0,
        "image_id": image, "bbox": [*low.tolist(), round(w, 2), round(h, 2)],
        "category_id": int(rng.integers(1, CLASSES + 1)), "id": number,
    }  # fmt: skip
    if rng.uniform() < 0.01:
        runs = np.full(200, 480 * 640 // 200)
        whole = {"bbox": [3, 0, 637, 480], "area": 480 * 640 / 2}  # the first run fills three columns
        return entry | whole | {"iscrowd": 1, "segmentation": {"size": [480, 640], "counts": runs.tolist()}}
    return entry


def read(who: str, path: Path) -> dict[str, float]:
    """One reading in this process."""
    if who == "ours":
        from maskrcnn.data.formats import coco  # imports of both are not measured
        from maskrcnn.data.formats import read_dataset as load

        assert coco
    else:
        from pycocotools.coco import COCO as load
    before, _ = memory_mb()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here
    start = time.perf_counter()
    held: Any = load(str(path))
    seconds = time.perf_counter() - start
    after, peak = memory_mb()
    found = {"seconds": seconds, "after": after - before, "peak": peak - before}
    return found | {"objects": int(held.annotation_counts.sum()) if who == "ours" else len(held.anns)}


def workers(path: Path) -> dict[str, float]:
    """What one with the data set holds for itself alone, above one without, in MB."""
    from maskrcnn.data.formats import read_dataset

    context = multiprocessing.get_context("forkserver")
    held = []
    for data in (read_dataset(path), None):
        mine, theirs = context.Pipe()
        process = context.Process(target=look, args=(data, theirs))
        process.start()
        held.append(mine.recv())
        process.join()
    return {"added": held[0] - held[1]}


def look(data: Any, connection: Any) -> None:
    """In a worker: reads every buffer, then sends the MB that it shares with no other process."""
    if data is not None:
        for array in (*data.objects, *data.images):
            if isinstance(array, np.ndarray):
                array.max(initial=0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    connection.send(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["pycocotools"]):
        print(json.dumps(read(sys.argv[1], Path(sys.argv[2]))))
    elif sys.argv[1:2] == ["workers"]:
        print(json.dumps(workers(Path(sys.argv[2]))))
    else:
        run(compare, __doc__)
