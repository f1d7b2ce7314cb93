"""SIGTERM, which schedulers send before they end a process, stops a command as Ctrl-C does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():  # which alone may take signals
        yield
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
