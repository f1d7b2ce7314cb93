"""Processes that start in a moment: forked from one that has imported what training needs, and has computed nothing."""

import atexit
import functools
import importlib
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from maskrcnn.training.distributed import join_ranks

Job = tuple[Callable[..., None], tuple[Any, ...]]
# The last two are imported by torch's first optimiser and first wrapped model.
NEEDED = ("maskrcnn.training.two_stage", "maskrcnn.evaluation.coco", "torch._dynamo", "torch.distributed.nn.functional")


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


def _exit_codes(jobs: list[Job]) -> list[int | None]:
    pipe = _server()
    pipe.send(jobs)
    return pipe.recv()


@functools.cache
def _server() -> Connection:
    """The process that the others are forked from, which this one must not be: it has threads."""
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=_serve, args=(there,)).start()
    there.close()
    atexit.register(here.close)
    return here


def _serve(pipe: Connection) -> None:
    for name in NEEDED:
        importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    while True:
        try:
            jobs: list[Job] = pipe.recv()
        except EOFError:
            return
        processes = [context.Process(target=_one_thread, args=(work, *arguments)) for work, arguments in jobs]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            if process.is_alive():
                process.kill()
                process.join()
        pipe.send([process.exitcode for process in processes])


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
