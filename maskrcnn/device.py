"""Where a model runs and in which precision: the choices behind `device=None` and `precision="auto"`."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeVar

import torch

from .errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
T = TypeVar("T")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a prepared model runs."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within the block, if `wanted`, every operator gives the same bits in every run, or raises RuntimeError."""
    if not wanted:
        yield
        return
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by their time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def to_device(bundle: T, device: torch.device) -> T:
    """A bundle of tensors and bundles, some of them perhaps None, on `device`."""
    if isinstance(bundle, tuple):
        fields = [to_device(field, device) for field in bundle]
        return type(bundle)(*fields) if hasattr(bundle, "_fields") else type(bundle)(fields)  # type: ignore[return-value]
    return bundle.to(device, non_blocking=True) if isinstance(bundle, torch.Tensor) else bundle  # type: ignore[return-value]


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, by default a GPU where there is one. Raises `ConfigError` for one that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device {str(device)!r} here: {str(error).splitlines()[0]}") from error


def choose_precision(wanted: str, device: torch.device, profile: str = "ours") -> Precision:
    """`wanted`, where `auto` is bf16 on a device that computes it faster than float32, and fp32 elsewhere.

    Weights of another framework's `profile` run in fp32 unless asked for otherwise: to give the same results as the
    original framework.
    Raises `ConfigError` for another word.
    """
    if wanted in DTYPES:
        return wanted  # type: ignore[return-value]
    if wanted != "auto":
        raise ConfigError(f"precision is one of auto, fp32, bf16, fp16; it got {wanted!r}")
    return "bf16" if profile in ("ours", "paper") and _has_fast_bf16(device) else "fp32"


def _has_fast_bf16(device: torch.device) -> bool:
    """Without AVX512-BF16 or AMX a processor emulates bfloat16, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
