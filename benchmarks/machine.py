"""The machine of a measurement: processor, memory and versions, but not its name."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .processes import ROOT

PACKAGES = (
    "torch", "torchvision", "openvino", "onnxruntime", "numba", "numpy", "pycocotools", "faster-coco-eval", "hotcoco",
    "detectron2",
)  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")  # they decide how fast a matrix product is


def facts(threads: int) -> dict[str, Any]:
    """Processor, memory, versions and commit, in words."""
    model, flags = _processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    known = " ".join(flag for flag in FLAGS if flag in flags) or platform.machine()
    return {
        "processor": f"{model}, {threads} of {os.cpu_count()} cores, {known}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
        "commit": _commit(),
    }


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
