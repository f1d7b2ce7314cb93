"""Several processes, as torchrun starts them: which one am I, sums over all, and one that writes and prints.

With one process every method of `Ranks` is the identity, so callers never ask how many there are.
"""

import gc
import importlib
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..device import choose_device
from ..errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world`, on `device`. By default one process on the CPU.

    Tensors are added on the device; objects and flags travel over gloo on the host, whatever carries the gradients.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    host: Any = None  # the gloo group, if the default group is another; else None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Prints a line, once for all ranks."""
        if self.first:
            print(text, flush=True)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over the ranks, on every rank, without gradient."""
        tensor = tensor.detach().clone()
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the ranks, on every rank. All ranks have the same names."""
        if self.world == 1:
            return dict(values)
        together = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(together, group=self.host)
        return dict(zip(values, (together / self.world).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank; the same answer on all."""
        if self.world == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.host)
        return bool(value.item())

    def gather(self, value: Any) -> list[Any] | None:
        """The `value` of every rank, in order, on the first rank; None on the others."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values, dst=0, group=self.host)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's `value`, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.host)
        return box[0]

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.world > 1:
            dist.barrier(group=self.host)


@contextmanager
def join_ranks(device: str | None = None) -> Iterator[Ranks]:
    """Joins the processes that torchrun started, known by its environment variables, and leaves them at the end.

    Without these variables there is one process. A process group that the caller has set up is used and left open.
    `device` None is CUDA if there is a GPU. Raises `ConfigError` for a device that does not exist.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dist.is_available() and dist.is_initialized():
        yield _joined(kind)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield Ranks(device=choose_device(kind))
        return
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"there is no device {kind!r} here")
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start several processes with torchrun")
    # A group's threads end with the last object that holds it; a thread that outlives the interpreter may abort the
    # process. This module holds the group that exists when it is imported, and DDP imports it: so import it before.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield _joined(kind)
    finally:
        dist.destroy_process_group()
        gc.collect()  # wrapped models are part of reference cycles


def _joined(kind: str) -> Ranks:
    device = torch.device(kind)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device, host)


def wrap(module: nn.Module, ranks: Ranks) -> nn.Module:
    """`module` with gradients averaged over the ranks; on GPUs live batch norms are synchronised, too."""
    if ranks.world == 1:
        return module
    live_norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    if live_norms and ranks.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    wrapper: Any = nn.parallel.DistributedDataParallel
    known = inspect.signature(wrapper.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.13
    # The weight of a 1 x 1 convolution is channels-last and row-major at once; torch's warning about it is harmless.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    return wrapper(module, device_ids=ids, **{name: live_norms})
