"""SIGINT and SIGTERM as a request: the loop finishes its step, saves, and then ends. A second signal ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether someone asked the run to stop, and how."""

    def __init__(self) -> None:
        self.requested = False
        self.name = "another rank"


@contextmanager
def catching_signals() -> Iterator[Stop]:
    """Catches both signals for the block, in the main thread; elsewhere Python delivers none and nothing is caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _frame: FrameType | None) -> None:
        stop.requested, stop.name = True, signal.Signals(number).name
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
