"""What one call costs on a GPU: milliseconds, memory, where the time goes, and how often the host waits."""

import json
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves, tree_map_only

Run = Callable[[], object]

# Kernels of convolutions and matrix products, by the names that cuDNN, cuBLAS, CUTLASS and Inductor give them.
_PRODUCTS = re.compile(
    r"conv|gemm|gemv|cutlass|xmma|wgrad|dgrad|fprop|nvjet|matmul|winograd|cublas|cudnn|_mm_|tem_fused", re.I
)
_NO_PRODUCTS = re.compile(
    r"nchwToNhwc|nhwcToNchw|pool|softmax|batch_?norm|convert|elementwise|triton_(poi|red|per)_", re.I
)
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cuStreamSynchronize")


class Graphed:
    """`run`, captured in a CUDA graph for each set of shapes that it is called with: one for each canvas and batch.

    A call's answer is overwritten by the next call of the same shapes.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run
        self.gib = 0.0  # held by the captured graphs
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]] = {}

    def __call__(self, *bundles: Any) -> Any:
        given = [leaf for leaf in tree_leaves(bundles) if isinstance(leaf, torch.Tensor)]
        shapes = tuple(tensor.shape for tensor in given)
        if shapes not in self.graphs:
            self.graphs[shapes] = self._capture(bundles)
        graph, held, out = self.graphs[shapes]
        for own, new in zip(held, given, strict=True):
            own.copy_(new, non_blocking=True)
        graph.replay()
        return out

    def _capture(self, bundles: Any) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]:
        own = tree_map_only(torch.Tensor, torch.clone, bundles)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # everything is compiled, chosen and allocated before the capture
            for _ in range(3):
                self.run(*own)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.run(*own)
        self.gib += (torch.cuda.memory_reserved() - before) / 2**30
        return graph, [leaf for leaf in tree_leaves(own) if isinstance(leaf, torch.Tensor)], out


def interleaved(runs: Mapping[str, Run], seconds: float, most_rounds: int = 7) -> dict[str, dict[str, float]]:
    """The milliseconds of one call of each, in turns, after a warm-up; all together take about `seconds`.

    `p20`, `ms` (the median) and `p80` are of the rounds, in which calls follow each other as in a loop; `alone` is of a
    call that begins and ends with an idle device.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    alone: dict[str, list[float]] = {name: [] for name in runs}
    once = {}
    for name, run in runs.items():
        milliseconds(run, 2)
        once[name] = milliseconds(run, 1)
    rounds = max(3, min(most_rounds, int(seconds * 1e3 / (3 * sum(once.values()) or 1))))
    calls = {name: max(2, min(50, int(seconds * 1e3 / rounds / len(runs) / ms))) for name, ms in once.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            alone[name].append(milliseconds(run, 1))  # also a warm-up, after the turn of another
            times[name].append(milliseconds(run, calls[name]))
    return {name: {**_spread(times[name]), "alone": round(statistics.median(alone[name]), 3)} for name in runs}


def milliseconds(run: Run, calls: int) -> float:
    """The mean of `calls` calls without a pause."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls * 1e3


def _spread(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return {"p20": round(cuts[1], 3), "ms": round(cuts[4], 3), "p80": round(cuts[7], 3)}


def peak_gib(run: Run) -> float:
    """The memory that a call takes beyond what is allocated when it begins; for a graph, what the graph holds."""
    if isinstance(graphed := getattr(run, "func", None), Graphed):
        return round(graphed.gib, 3)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)


def waits(run: Run) -> int:
    """How often the host waits for the device in a call, as far as torch notices it."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def where_time_goes(run: Run) -> dict[str, Any]:
    """Of one call: device milliseconds, the share of convolutions and matrix products in them, kernels, waits.

    `top` lists the kernels that take longest, with their milliseconds and whether they count as products, so that a
    reader can check the classification.
    """
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return summary(events)


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What `where_time_goes` returns, from the events of a trace, whose durations are microseconds."""
    kernels: dict[str, float] = {}
    count = 0
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            kernels[event["name"]] = kernels.get(event["name"], 0.0) + event["dur"] / 1e3
            count += 1
    total = sum(kernels.values())
    products = sum(ms for name, ms in kernels.items() if is_product(name))
    largest = sorted(kernels.items(), key=lambda item: -item[1])[:20]
    return {
        "device_ms": round(total, 3),
        "products_share": round(products / total, 4) if total else None,
        "kernels": count,
        "waits_traced": sum(event.get("cat") == "cuda_runtime" and event["name"] in _WAITS for event in events),
        "top": [{"kernel": name[:120], "ms": round(ms, 3), "product": is_product(name)} for name, ms in largest],
    }


def is_product(kernel: str) -> bool:
    """Whether a kernel of this name computes a convolution or a matrix product."""
    return bool(_PRODUCTS.search(kernel)) and not _NO_PRODUCTS.search(kernel)
