"""Parts of a model that its user brings: functions that make a module, or that are a loss. `build.py` asks for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from ..errors import CheckpointError

_LOSSES = ("box_loss", "mask_loss", "keypoint_loss")  # needed in training only


@dataclass(frozen=True)
class Parts:
    """What takes the place of the usual parts; None leaves one as it is. The letters are those of docs/shapes.md.

    Args:
        backbone: of the `ModelConfig`; a module from normalised images [B I H W] to a list of maps [B C h w], finest
            first, with the attributes `channels` and `strides`, a list each. An FPN reads all maps, C5 the last.
        box_head: of the channels C of the pooled features and the `ModelConfig`; a module from features [B R C S S],
            S = box_head.pool_size, to class logits [B R K1], background last, and deltas [B R K 4] or, if they are
            class-agnostic, [B R 1 4], both float32.
        mask_head: of C and the `ModelConfig`; a module from features [B F C S S], S = mask_head.pool_size, and labels
            [B F] (0..K-1) to the logits [B F M M] of that class's mask, float32, of any M.
        keypoint_head: of C and the `ModelConfig`; a module from features [B F C S S] to heatmaps [B F J Q Q], float32.
        box_loss: as `losses.box_loss`: of class logits, deltas, `RoIs` and the `BoxHeadConfig`; two `Term`s.
        mask_loss: as `losses.mask_loss`: of logits [B F M M], targets [B F M M] and `RoIs`; a `Term`.
        keypoint_loss: as `losses.keypoint_loss`: of heatmaps, cells [B F J] and seen [B F J]; a `Term`.

    A `Term` is a sum and the count that divides it. Slots that `RoIs.valid` does not mark hold zeros and may not
    count.
    """

    backbone: Callable[..., nn.Module] | None = None
    box_head: Callable[..., nn.Module] | None = None
    mask_head: Callable[..., nn.Module] | None = None
    keypoint_head: Callable[..., nn.Module] | None = None
    box_loss: Callable[..., Any] | None = None
    mask_loss: Callable[..., Any] | None = None
    keypoint_loss: Callable[..., Any] | None = None

    @property
    def names(self) -> dict[str, str]:
        """The names of the functions, by part, as a checkpoint remembers them."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        named = {part: made if hasattr(made, "__qualname__") else type(made) for part, made in own.items() if made}
        return {part: made.__qualname__ for part, made in named.items()}

    def require(self, names: Mapping[str, str], source: object) -> None:
        """Raises `CheckpointError` if a checkpoint was trained with parts of these names that are missing here."""
        needed = {part: name for part, name in names.items() if part not in _LOSSES}
        missing = {part: name for part, name in needed.items() if getattr(self, part, None) is None}
        if missing:
            shown = ", ".join(f"{part} ({name})" for part, name in missing.items())
            given = ", ".join(f"{part}={name}" for part, name in missing.items())
            raise CheckpointError(
                f"{source} was trained with parts of its author's own: {shown}; pass these functions from Python, "
                f"such as maskrcnn.load(path, parts=maskrcnn.Parts({given}))"
            )


USUAL = Parts()


def without_losses(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a model that predicts: an own loss may have tensors, too."""
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in _LOSSES}
