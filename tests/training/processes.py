"""Processes that start in a moment: they are forked from a server that has imported torch and the package once."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maskrcnn.training.distributed import join_ranks


def in_process(work: Callable[..., None], *arguments: Any) -> int | None:
    """Runs `work` in another process; returns its exit code."""
    (code,) = _exit_codes([(work, arguments)])
    return code


def two_ranks(work: Callable[..., None], out: Path) -> list[int | None]:
    """Runs `work(ranks, out)` in two processes that torchrun might have started; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return _exit_codes([(_in_rank, (rank, 2, port, work, out)) for rank in range(2)])


def _exit_codes(jobs: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> list[int | None]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["maskrcnn.training.loop", "maskrcnn.training.two_stage"])
    processes = [context.Process(target=_one_thread, args=(work, *arguments)) for work, arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _one_thread(work: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def _in_rank(rank: int, world: int, port: int, work: Any, out: Path) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    with join_ranks("cpu") as ranks:
        work(ranks, out)
    # A thread of the group that outlives the interpreter aborts the process now and then.
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name]
