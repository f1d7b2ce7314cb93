"""python benchmarks/loading.py [--threads 2] [--repeats 5]

Seconds from a file of R-50-FPN to a predictor, after `import torch`, and the most memory that `maskrcnn convert` takes
for X-101-64x4d-FPN, as a multiple of the file. Files are written into a temporary folder; every figure is of a process
of its own.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# This process imports no torch: a child's peak memory would include that of the process which started it.

WRITE = """
import pickle, sys
import torch
from maskrcnn.config import preset
from maskrcnn.model.build import build
from maskrcnn.profiles import with_profile
from maskrcnn.weights.checkpoint import Checkpoint, save_checkpoint
from maskrcnn.weights.classes import name_classes
from maskrcnn.weights.write import to_foreign, write_foreign
path, model, origin, protocol = sys.argv[1:]
config = with_profile(preset(model), origin)
found = Checkpoint(config, name_classes(config), build(config).state_dict(), {})
if origin == "ours":
    save_checkpoint(path, found.state, config, found.categories, {})
elif protocol == "0":
    write_foreign(path, found, origin)
else:
    arrays = {name: tensor.numpy() for name, tensor in to_foreign(found, origin).items()}
    with open(path, "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file, protocol=int(protocol))
"""
LOAD = """
import sys, time
import torch
torch.set_num_threads(int(sys.argv[2]))
started = time.perf_counter()
import maskrcnn
predictor = maskrcnn.load(sys.argv[1], device="cpu")
loaded = time.perf_counter() - started
predictor._prepared("auto", None, None)
print(loaded, time.perf_counter() - started)
"""
CONVERT = """
import resource, sys
from maskrcnn.cli.main import main
try:
    main(["convert", *sys.argv[1:]])
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(program: str, *words: object) -> list[str]:
    """The last line that a Python program printed, as words."""
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return (done.stdout.splitlines() or [""])[-1].split()


def loading(folder: Path, threads: int, repeats: int) -> None:
    print(f"{'R-50-FPN':<34}{'MiB':>8}{'load, s':>10}{'and prepare, s':>16}   (median of {repeats}; the bar is 3 s)")
    files = (("ours", "r50.safetensors", 0), ("torchvision", "r50.pth", 0), ("detectron2", "r50.pkl", 4))
    for origin, name, protocol in files:
        path = folder / name
        run(WRITE, path, "R-50-FPN", origin, protocol)
        run(LOAD, path, threads)  # the file is in the system's cache, and every module compiled
        times = [[float(word) for word in run(LOAD, path, threads)] for _ in range(repeats)]
        load, ready = (statistics.median(column) for column in zip(*times, strict=True))
        size = path.stat().st_size / 2**20
        print(f"{origin + ', ' + path.suffix:<34}{size:>8.0f}{load:>10.2f}{ready:>16.2f}", flush=True)
        path.unlink()


def converting(folder: Path) -> None:
    unit = 1024 if sys.platform != "darwin" else 1  # of ru_maxrss
    print(f"{'X-101-64x4d-FPN':<34}{'MiB':>8}{'peak, MiB':>12}{'of the file':>14}   (the bar is 3)")
    for name, protocol in (("zip.pth", 0), ("protocol2.pkl", 2), ("protocol4.pkl", 4)):
        path = folder / name
        run(WRITE, path, "X-101-64x4d-FPN", "detectron2", protocol)
        (peak,) = run(CONVERT, path, folder / "out.safetensors")
        size, peak_bytes = path.stat().st_size, int(peak) * unit
        print(f"{name:<34}{size / 2**20:>8.0f}{peak_bytes / 2**20:>12.0f}{peak_bytes / size:>14.2f}", flush=True)
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        loading(Path(folder), args.threads, args.repeats)
        converting(Path(folder))
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} KiB at most")


if __name__ == "__main__":
    main()
