"""Stops a run whose loss is not finite, with the images that it met."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TrainingError
from ..files import replacing
from .distributed import Ranks, from_first, gather, on_any


class Watch:
    """Looks at the losses and the gradient's norm of every step.

    On a CPU that happens before the weights change; on a GPU, where looking waits for the device, when a record is due.
    """

    def __init__(self, out: Path, among: Ranks) -> None:
        self._out, self._among = out, among
        self._noted: list[tuple[int, list[int], dict[str, Tensor]]] = []

    def note(self, step: int, image_ids: list[int], values: Mapping[str, Tensor], *, scaled: bool) -> None:
        kept = {name: value for name, value in values.items() if not (scaled and name == "gradient_norm")}
        self._noted.append((step, image_ids, kept))
        if self._among.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raises `TrainingError` on every rank if a value noted on any is not finite."""
        noted, self._noted = self._noted, []
        if not noted:
            return
        finite = torch.stack([torch.stack(list(values.values())) for _, _, values in noted]).isfinite().all(1).tolist()
        bad = next((i for i, good in enumerate(finite) if not good), None)
        if not on_any(bad is not None, self._among):
            return
        mine = None if bad is None else (noted[bad][0], noted[bad][1], _floats(noted[bad][2]))
        found = from_first([row for row in gather(mine, self._among) or [] if row is not None], self._among)
        step, _, losses = min(found, key=lambda row: row[0])
        ids = sorted(image_id for row in found if row[0] == step for image_id in row[1])
        content = {"step": step + 1, "image_ids": ids, "losses": losses}
        path = self._out / "not_finite.json"
        if self._among.first:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        raise TrainingError(
            f"the loss is not finite at step {step + 1} ({_words(losses)}), images {shown}; {path} lists them. "
            "A lower train.lr or a longer train.warmup_steps usually helps"
        )


def _floats(values: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: str(float(value)) for name, value in values.items()}


def _words(losses: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in losses.items())
