"""The time to start: the import, `--help`, and the first compilation of the kernels.

    python -m benchmarks.start [--quick]

Each start is a new process; they take turns, with the files in the page cache.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial

import torch

from .harness import Left, Middle, Options, Row, interleaved, middle, run
from .processes import ROOT, in_a_process
from .rivals import image, ours_from, ours_predicts, torchvision_r50


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
    """From weights to the RLE of a prediction: the time with an empty cache of kernels, minus that with a full one.

    Kernels may compile while the weights load, so the time begins before that.
    """
    with tempfile.TemporaryDirectory() as cache:
        again = partial(
            in_a_process, ["-m", "benchmarks.start", "predict", str(options.threads)], {"NUMBA_CACHE_DIR": cache}
        )
        empty, full = again()["seconds"], again()["seconds"]
    return Row(
        "first prediction on a new machine, loading included, beyond the second", Middle(*[empty - full] * 3), bar=8.0
    )


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)


def predict(threads: int) -> None:
    torch.set_num_threads(threads)
    state = torchvision_r50().state_dict()
    start = time.perf_counter()
    assert len(ours_predicts(ours_from(state), image(), "bf16").masks)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["predict"]:
        predict(int(sys.argv[2]))
    else:
        run(compare, __doc__)
