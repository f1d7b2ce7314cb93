"""TensorBoard: `tensorboard --logdir runs` shows the curves of all runs, and images of each evaluation."""

from pathlib import Path
from typing import Any

import numpy as np

from . import Record, numbers


class TensorBoard:
    """Writes events into the folder `tensorboard` of a run. Raises ImportError without the library."""

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._open = out / "tensorboard", SummaryWriter
        self._writer: Any = None

    def on_start(self, record: Record) -> None:
        # Events of steps that will be repeated, because the run was killed after it was saved, are hidden.
        purge = record["step"] + 1 if record["step"] else None
        self._writer = self._open(str(self._folder), purge_step=purge)

    def on_step(self, record: Record) -> None:
        self._scalars("step", record)

    def on_evaluation(self, record: Record) -> None:
        self._scalars("evaluation", record)
        self._writer.flush()

    def on_images(self, record: Record) -> None:
        for name, image in record["images"].items():
            self._writer.add_image(name, np.asarray(image), record["step"], dataformats="HWC")
        self._writer.flush()

    def on_end(self, record: Record) -> None:
        self._writer.close()

    def _scalars(self, kind: str, record: Record) -> None:
        for name, value in numbers(record).items():
            self._writer.add_scalar(f"{kind}/{name}", value, record["step"])
