"""Several processes as torchrun starts them: who am I, add over all, gather, and let one write.

With one process every function is the identity, so that callers never ask. Objects and flags travel over gloo on the
host, whatever carries the gradients.
"""

import gc
import importlib
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..device import choose_device
from ..errors import ConfigError


class Ranks(NamedTuple):
    """This process among all: `rank` of `world`, on `device`."""

    rank: int
    world: int
    device: torch.device
    host: Any  # the group for objects and flags where the default one has no gloo, else None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0


def alone(device: torch.device | str = "cpu") -> Ranks:
    """One process."""
    return Ranks(0, 1, torch.device(device), None)


@contextmanager
def ranks(device: str | None = None) -> Iterator[Ranks]:
    """Joins the processes that torchrun started, by its environment variables, or is alone; leaves them at the end.

    A group that the caller has set up already is used and left as it is. `device` None is CUDA where there is one.
    Raises `ConfigError` for a device that is not there.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dist.is_available() and dist.is_initialized():
        yield _joined(kind)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield alone(choose_device(kind))
        return
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"there is no device {kind!r} here")
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start several processes with torchrun")
    # A group's threads end with the last that holds it; one that outlives the interpreter may abort the process. This
    # module keeps the group that it finds when imported, which wrapping a model does: so it comes before there is one.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield _joined(kind)
    finally:
        dist.destroy_process_group()
        gc.collect()  # wrapped models lie in cycles


def _joined(kind: str) -> Ranks:
    device = torch.device(kind)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device, host)


def wrap(module: nn.Module, among: Ranks, *, live_norms: bool) -> nn.Module:
    """`module` with gradients averaged over the ranks, and live batch norms synchronised where torch can (on GPUs)."""
    if among.world == 1:
        return module
    if live_norms and among.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    ids = [among.device.index] if among.device.type == "cuda" else None
    kind = nn.parallel.DistributedDataParallel
    known = inspect.signature(kind.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.13
    # The weight of a 1 x 1 convolution lies channels-last and in rows at once; what torch says of it costs nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    named: dict[str, Any] = {name: live_norms}
    return kind(module, device_ids=ids, **named)


def total_over(tensor: Tensor, among: Ranks) -> Tensor:
    """The sum of `tensor` over the ranks, on every rank, without gradient."""
    tensor = tensor.detach().clone()
    if among.world > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over(values: Mapping[str, float], among: Ranks) -> dict[str, float]:
    """The mean of each value over the ranks, which name the same; on every rank."""
    if among.world == 1:
        return dict(values)
    together = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(together, group=among.host)
    return dict(zip(values, (together / among.world).tolist(), strict=True))


def on_any(flag: bool, among: Ranks) -> bool:
    """Whether `flag` is true on some rank; the same answer everywhere."""
    if among.world == 1:
        return flag
    value = torch.tensor(int(flag))
    dist.all_reduce(value, op=dist.ReduceOp.MAX, group=among.host)
    return bool(value.item())


def gather(value: Any, among: Ranks) -> list[Any] | None:
    """The `value` of every rank, in order, on the first rank; None on the others."""
    if among.world == 1:
        return [value]
    values: list[Any] | None = [None] * among.world if among.first else None
    dist.gather_object(value, values, dst=0, group=among.host)
    return values


def from_first(value: Any, among: Ranks) -> Any:
    """What the first rank holds, on every rank."""
    if among.world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=among.host)
    return box[0]


def wait_for_all(among: Ranks) -> None:
    if among.world > 1:
        dist.barrier(group=among.host)
