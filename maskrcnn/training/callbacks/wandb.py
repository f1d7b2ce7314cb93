"""Weights & Biases. Its own environment variables choose the project and the mode, such as WANDB_MODE=offline."""

import os
import uuid
from pathlib import Path
from typing import Any

from . import Record, kept_id, numbers

_PATIENCE = 60  # seconds that it may take to begin


class WandB:
    """A run of the project WANDB_PROJECT, by default maskrcnn; a run that goes on here goes on there."""

    def __init__(self, out: Path) -> None:
        import wandb

        self._wandb, self._out = wandb, out
        self._run: Any = None

    def on_start(self, record: Record) -> None:
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "maskrcnn"),
            name=os.environ.get("WANDB_NAME", self._out.name),
            id=kept_id(self._out / "wandb.txt", new=not record["step"], make=lambda: uuid.uuid4().hex),
            resume="allow",
            dir=str(self._out),
            config=dict(record["settings"]),
            settings=self._wandb.Settings(init_timeout=_PATIENCE, login_timeout=_PATIENCE),
        )

    def on_step(self, record: Record) -> None:
        self._log(numbers({"step": record}), record["step"])

    def on_evaluation(self, record: Record) -> None:
        self._log(numbers({"evaluation": record}), record["step"])

    def on_images(self, record: Record) -> None:
        shown = {f"images/{name}": self._wandb.Image(image) for name, image in record["images"].items()}
        self._log(shown, record["step"])

    def on_end(self, record: Record) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if record["finished"] else 1)

    def _log(self, values: dict[str, Any], step: int) -> None:
        if self._run is not None:  # if it could not begin, which was reported, there is nothing to add to
            self._run.log(values, step=step)
