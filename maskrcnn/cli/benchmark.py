"""`maskrcnn benchmark MODEL`."""

from collections.abc import Iterator
from typing import Any

from ..benchmark import BETWEEN, WHOLE, Costs
from ..benchmark import benchmark as run
from .options import options_of


@options_of(run)
def benchmark(**arguments: Any) -> None:
    """Measure time, operations and memory of a prediction, stage by stage."""
    print("\n".join(table(run(**arguments))))


def table(costs: Costs) -> Iterator[str]:
    """The stages as lines of text. A dash stands for nothing that is counted."""
    whole = next(stage for stage in costs.stages if stage.name == WHOLE)
    yield costs.about
    yield f"{'stage':<24}{'ms':>10}{'share':>8}{'GFLOPs':>10}{'GFLOP/s':>10}{'MiB':>9}"
    for name, seconds, flops, memory in costs.stages:
        rate = f"{flops / seconds / 1e9:.0f}" if flops and seconds > 0 and name != BETWEEN else "-"
        counted = f"{flops / 1e9:.2f}" if flops else "-"
        used = f"{memory / 2**20:.1f}" if memory else "-"
        yield f"{name:<24}{1e3 * seconds:>10.1f}{seconds / whole.seconds:>8.0%}{counted:>10}{rate:>10}{used:>9}"
    yield "GFLOPs: of convolutions and matrix products; MiB: the most of torch's memory in use at once, without weights"
