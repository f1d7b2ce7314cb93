"""What a machine has for this package: its environment, what is fast on it, and what is missing or broken."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from . import __version__
from .device import choose_precision
from .files import cache_folder
from .ops.ahead import kept_in
from .ops.dispatch import implementations

FOR = {  # what each extra is for; a library may need others, too
    "tiff": "TIFF beyond what Pillow reads: stacks, OME-TIFF, many channels, compression",
    "table": "Result.to_df",
    "parquet": "tables and annotations as Parquet",
    "tensorboard": "train --log tensorboard",
    "wandb": "train --log wandb",
    "mlflow": "train --log mlflow",
}
LEAST_SPACE, LEAST_FILES, LEAST_SHARED = 2 * 2**30, 1024, 256 * 2**20  # below these something fails sooner or later

State = Literal["ok", "missing", "slow", "broken"]


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and if it is not well, the way out."""

    about: str
    state: State
    words: str


def examine() -> list[Finding]:
    """Everything, in the order in which it is printed. Nothing is installed, downloaded or left behind."""
    return [*_software(), *_processor(), *_gpus(), *_kernels(), *_limits(), *_extras()]


def _software() -> Iterator[Finding]:
    yield Finding("maskrcnn", "ok", __version__)
    yield Finding("system", "ok", platform.platform())
    yield Finding("Python", "ok", platform.python_version())
    yield Finding("torch", "ok", f"{torch.__version__}, NumPy {metadata.version('numpy')}")
    for line in _requirements():
        name = re.match(r"[\w-]+", line)
        if name and ";" not in line and not _version(name[0]):
            yield Finding(name[0], "broken", f"is not installed, but needed: pip install '{line}'")


def _processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, has = (
        torch.get_num_threads(),
        torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {},
    )
    words = f"{cores} cores for this process, {threads} threads of torch"
    if threads > cores:
        yield Finding(
            "threads", "slow", f"{words}: more threads than cores wait for each other; set OMP_NUM_THREADS={cores}"
        )
    else:
        yield Finding("threads", "ok", words)
    names = {"avx2": "AVX2", "avx512_f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
    there = ", ".join(f"{words} {'yes' if has.get(name) else 'no'}" for name, words in names.items())
    yield Finding("processor", "ok", f"{has.get('cpu_name') or platform.processor() or platform.machine()}: {there}")
    chosen = choose_precision("auto", torch.device("cpu"))
    why = "it computes bfloat16 in hardware" if chosen == "bf16" else "without AVX512-BF16 or AMX bfloat16 is emulated"
    yield Finding("precision", "ok", f"auto is {chosen} on the processor: {why}")


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        why = (
            "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device or driver"
        )
        yield Finding("GPU", "missing", f"none: {why}; everything runs on the processor")
        return
    for i in range(torch.cuda.device_count()):
        seen, precision = torch.cuda.get_device_properties(i), choose_precision("auto", torch.device("cuda", i))
        try:
            free = torch.cuda.mem_get_info(i)[0]
            works = float(torch.ones(8, device=f"cuda:{i}").sum()) == 8
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            yield Finding(f"GPU {i}", "broken", f"{seen.name} fails ({reason}); --device cpu leaves it out")
            continue
        words = f"{seen.name}, {free / 2**30:.1f} of {seen.total_memory / 2**30:.1f} GiB free, auto is {precision}"
        yield Finding(f"GPU {i}", "ok" if works else "broken", words if works else f"{seen.name} adds wrongly")


def _kernels() -> Iterator[Finding]:
    if "numba" in implementations("nms"):
        import numba

        folder, name = kept_in(), f"Numba {numba.__version__}"
        if folder is None:
            way = "nothing that it compiles can be kept: set NUMBA_CACHE_DIR to a folder that can be written"
            yield Finding("kernels, processor", "slow", f"{name}; {way}")
        else:
            compiled = len(list(folder.glob("*.nbi"))) if folder.exists() else 0
            yield Finding("kernels, processor", "ok", f"{name}, {compiled or 'none'} compiled so far, kept in {folder}")
    else:
        yield Finding(
            "kernels, processor", "slow", "Numba cannot be imported, so slow references run: pip install numba"
        )
    if torch.cuda.is_available():
        found = "triton" in implementations("nms", "cuda")
        words = "Triton" if found else "Triton cannot be imported, so slow references run: pip install triton"
        yield Finding("kernels, GPU", "ok" if found else "slow", words)


def _limits() -> Iterator[Finding]:
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        words = f"{_size(free)} free in /dev/shm, for batches that workers read"
        enough = free >= LEAST_SHARED
        hint = "" if enough else ": too little; docker run --shm-size=2g, or --set train.workers=0"
        yield Finding("shared memory", "ok" if enough else "slow", words + hint)
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        enough = files >= LEAST_FILES or files == resource.RLIM_INFINITY
        hint = "" if enough else f": too few for workers; ulimit -n {4 * LEAST_FILES}"
        yield Finding("open files", "ok" if enough else "slow", f"at most {files}{hint}")
    for about, folder in (("cache", cache_folder()), ("temporary files", Path(tempfile.gettempdir()))):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        if not _is_writable(there):
            way = "set MASKRCNN_CACHE to a folder that can" if about == "cache" else "set TMPDIR to a folder that can"
            yield Finding(about, "broken", f"{folder} cannot be written: {way}")
        else:
            hint = "" if free >= LEAST_SPACE else ": little, downloads and checkpoints may fail"
            yield Finding(about, "slow" if hint else "ok", f"{folder}, {_size(free)} free{hint}")


def _extras() -> Iterator[Finding]:
    wanted: dict[str, list[str]] = {}
    for line in _requirements():
        if match := re.match(r"([\w-]+).*extra == [\"'](\w+)[\"']", line):
            wanted.setdefault(match[2], []).append(match[1])
    for extra, use in FOR.items():
        names = wanted.get(extra, [extra])
        versions = {name: _version(name) for name in names}
        if all(versions.values()):
            shown = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding(f"extra {extra}", "ok", f"{shown}: {use}")
        else:
            yield Finding(f"extra {extra}", "missing", f"for {use}: pip install 'maskrcnn[{extra}]'")


def _version(name: str) -> str | None:
    """Of what is installed under this name."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    return (metadata.requires("maskrcnn") or []) if _version("maskrcnn") else []


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there; a folder that does not exist yet counts as its parent."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    return there is not None and os.access(there, os.W_OK)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """For other programs."""
    return {"ok": all(one.state != "broken" for one in findings), "findings": [one._asdict() for one in findings]}
