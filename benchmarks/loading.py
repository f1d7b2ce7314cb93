"""The time from a file of R-50-FPN to a predictor, and the memory that it takes to convert X-101-64x4d-FPN.

    python -m benchmarks.loading [--quick]

Each figure comes from a new process. Loading is timed from after `import torch` until the model is prepared for its
first image, with the file in the page cache. Converting is `maskrcnn convert`; its peak is that of the process.
"""

import json
import pickle
import sys
import tempfile
import time
from pathlib import Path

from .harness import Left, Middle, Options, Row, middle, run
from .processes import in_a_process, memory_mb

# Who wrote the file, its name, and the pickle's protocol; 0 for files that are no plain pickles.
LOADED = (("ours", "r50.safetensors", 0), ("torchvision", "r50.pth", 0), ("detectron2", "r50.pkl", 4))
CONVERTED = (("detectron2", "protocol-2.pkl", 2), ("detectron2", "x101.pth", 0), ("torchvision", "x101.pth", 0))


def compare(options: Options) -> list[Row | Left]:
    with tempfile.TemporaryDirectory() as folder:
        loaded = [loading(Path(folder), *case, options) for case in LOADED]
        converted = [converting(Path(folder), *case) for case in CONVERTED[: 1 if options.quick else None]]
    return [*loaded, *converted]


def loading(folder: Path, origin: str, name: str, protocol: int, options: Options) -> Row:
    path = folder / name
    itself("write", path, "R-50-FPN", origin, protocol)
    itself("load", path, options.threads)  # compiles modules and brings the file into the page cache
    seconds = [itself("load", path, options.threads)["seconds"] for _ in range(options.rounds(7, 3))]
    what = f"R-50-FPN, {path.suffix} of {origin}, {path.stat().st_size / 1e6:.0f} MB, to a ready predictor"
    path.unlink()
    return Row(what, middle(seconds), bar=3.0)


def converting(folder: Path, origin: str, name: str, protocol: int) -> Row:
    path, out = folder / name, folder / "out.safetensors"
    itself("write", path, "X-101-64x4d-FPN", origin, protocol)
    size, peak = path.stat().st_size / 1e6, itself("convert", path, out)["peak"]
    path.unlink()
    out.unlink()
    what = f"X-101-64x4d-FPN, {name} of {origin}, {size:.0f} MB, converted: peak memory, of the file"
    return Row(what, Middle(*[peak / size] * 3), "x", bar=3.0)


def itself(*arguments: object) -> dict[str, float]:
    return in_a_process(["-m", "benchmarks.loading", *map(str, arguments)])


# --- each in a new process -------------------------------------------------------------------------------------------


def write(path: Path, model: str, origin: str, protocol: int) -> None:
    """A checkpoint with random weights."""
    from maskrcnn.config import preset
    from maskrcnn.model.build import build
    from maskrcnn.weights.checkpoint import Checkpoint, save_checkpoint
    from maskrcnn.weights.interop.classes import name_classes
    from maskrcnn.weights.interop.profiles import with_profile
    from maskrcnn.weights.interop.write import to_foreign, write_foreign

    config = with_profile(preset(model), origin)
    found = Checkpoint(config, name_classes(config), build(config).state_dict(), {})
    if origin == "ours":
        save_checkpoint(path, found)
    elif not protocol:
        write_foreign(path, found, origin)
    else:
        arrays = {name: tensor.numpy() for name, tensor in to_foreign(found, origin).items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol))


def load(path: Path, threads: int) -> float:
    """The seconds that it takes."""
    import torch

    torch.set_num_threads(threads)
    start = time.perf_counter()
    import maskrcnn

    maskrcnn.load(path, device="cpu").engine()
    return time.perf_counter() - start


def convert(path: str, out: str) -> float:
    """The peak of memory, in MB."""
    from maskrcnn.cli.main import app

    app(["convert", path, out], standalone_mode=False)
    return memory_mb()[1]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", path, model, origin, protocol]:
            write(Path(path), model, origin, int(protocol))
            print("{}")
        case ["load", path, threads]:
            print(json.dumps({"seconds": load(Path(path), int(threads))}))
        case ["convert", path, out]:
            print(json.dumps({"peak": convert(path, out)}))
        case _:
            run(compare, __doc__)
