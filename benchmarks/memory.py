"""An image of 12 megapixels with 300 detections, from its file to RLE: the peak of memory beyond the network's own.

    python -m benchmarks.memory [--quick]

Each figure is the difference between the peaks of two processes: one starts from the large file, the other from a file
of the size to which the large one is resized, and both run the same network. torchvision pastes masks as float32
images of 48 MB each and holds all of them twice: 29 GB for 300 detections. It is measured with 20 here.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .harness import Left, Middle, Options, Row, run
from .processes import in_a_process, memory_mb
from .rivals import ours_from, torchvision_predicts, torchvision_r50

SIZE, RESIZED = (3000, 4000), (800, 1066)
DETECTIONS, THEIR_DETECTIONS = 300, 20


def compare(options: Options) -> list[Row | Left]:
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large.jpg", Path(folder) / "small.png"
        draw(large, SIZE)
        draw(small, RESIZED)
        threads = str(options.threads)
        peaks = {
            (who, file.stem): in_a_process(["-m", "benchmarks.memory", who, str(file), threads])["peak"]
            for who in ("ours", "torchvision")
            for file in (large, small)
        }
    ours, theirs = (peaks[who, "large"] - peaks[who, "small"] for who in ("ours", "torchvision"))
    what = "an image of 12 megapixels, from its file to RLE: peak of memory beyond the network's"
    return [
        Row(f"{what}, {DETECTIONS} detections", Middle(ours, ours, ours), "MB", bar=200.0),
        Row(f"{what}, torchvision, {THEIR_DETECTIONS} detections", Middle(theirs, theirs, theirs), "MB"),
    ]


def draw(path: Path, size: tuple[int, int]) -> None:
    """A smooth image of noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def work(who: str, path: Path, threads: int) -> None:
    """From one file to RLE; prints the peak."""
    torch.set_num_threads(threads)
    rival = torchvision_r50()
    if who == "ours":
        predictor = ours_from(rival.state_dict())
        del rival
        (result,) = predictor.predict(path, precision="fp32", score_threshold=0.0, max_detections=DETECTIONS)
        found = len(result.rle or [])
    else:
        heads = rival.roi_heads
        heads.score_thresh, heads.detections_per_img = 0.0, THEIR_DETECTIONS  # type: ignore[union-attr]
        found = len(torchvision_predicts(rival, np.array(Image.open(path))).masks)
    assert found == (DETECTIONS if who == "ours" else THEIR_DETECTIONS), found
    print(json.dumps({"peak": memory_mb()[1]}))


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["torchvision"]):
        work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        run(compare, __doc__)
