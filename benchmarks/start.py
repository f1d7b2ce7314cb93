"""The time to start: the import, `--help`, and the first compilation of the kernels.

    python -m benchmarks.start [--quick]

Each start is a new process; they take turns, with the files in the page cache.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.config import ModelConfig
from maskrcnn.model.build import build
from maskrcnn.weights.checkpoint import Checkpoint, save_checkpoint

from .harness import Left, Middle, Options, Row, interleaved, middle, run
from .processes import ROOT
from .rivals import image


def compare(options: Options) -> list[Row | Left]:
    contestants = {
        "maskrcnn": partial(python, "-c", "import maskrcnn; maskrcnn.load"),
        "torch": partial(python, "-c", "import torch"),
        "help": partial(python, "-m", "maskrcnn", "--help"),
    }
    seconds = interleaved(contestants, rounds=options.rounds(9, 3), pause=0.0)
    more = [mine - other for mine, other in zip(seconds["maskrcnn"], seconds["torch"], strict=True)]
    return [
        Row("`import maskrcnn`, beyond `import torch`", middle(more), bar=0.3),
        Row("`maskrcnn --help`", middle(seconds["help"]), bar=0.5),
        first_prediction(options),
    ]


def first_prediction(options: Options) -> Row:
    """The whole `maskrcnn predict` of one image: the time with an empty cache of kernels, minus that with a full one.

    The weights are random and of ours, so the command computes in the precision that suits the machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights, photo, found = (Path(folder) / name for name in ("r50.safetensors", "image.png", "out"))
        categories = tuple(Category(id, str(id)) for id in range(1, 81))
        save_checkpoint(weights, Checkpoint(ModelConfig(), categories, build(ModelConfig()).state_dict(), {}))
        Image.fromarray(image()).save(photo)
        command = ["-m", "maskrcnn", "predict", str(weights), str(photo), "--out", str(found)]
        environment = {"NUMBA_CACHE_DIR": f"{folder}/kernels", "OMP_NUM_THREADS": str(options.threads)}
        empty, full = (timed(command, environment) for _ in range(2))
    return Row("first `maskrcnn predict` on a new machine, beyond the second", Middle(*[empty - full] * 3), bar=8.0)


def timed(arguments: list[str], environment: dict[str, str]) -> float:
    """The seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, check=True
    )
    return time.perf_counter() - began


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)


if __name__ == "__main__":
    run(compare, __doc__)
