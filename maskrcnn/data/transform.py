"""A user's own function on training images: `transform(image, boxes, masks, keypoints)`, before everything else.

What it returns is checked, so that an image and its objects do not come apart unnoticed.
"""

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from ..errors import ConfigError
from ..ops.rle import counts_from_bitmap
from .bitmaps import draw_bitmap, trimmed
from .dataset import Record

# Takes the image, uint8 [H W C], boxes [n 4] (xyxy, float32), masks, bool [n H W], and keypoints [n J 3] or None.
# Returns the same four for the same n objects in the same order. The boxes may be None: then they are those of the
# masks. An object with an empty box or an empty mask is dropped.
Transform: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None], tuple[Any, Any, Any, Any]]

_AGREE = 0.5  # IoU of a returned box with the box of its mask, for most objects


def name_of(transform: Transform | None) -> str | None:
    """How a run remembers a transform: the name of the function, or of the object's class."""
    if transform is None:
        return None
    named = transform if hasattr(transform, "__qualname__") else type(transform)
    return f"{named.__module__}.{named.__qualname__}"


def check_picklable(transform: Transform | None, workers: int) -> None:
    """Raises `ConfigError` if worker processes cannot get the transform."""
    if transform is None or not workers:
        return
    try:
        pickle.dumps(transform)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the transform {name_of(transform)} cannot be sent to worker processes ({error}); define it at the top of "
            "a module, or --set train.workers=0"
        ) from error


def apply(transform: Transform, image: np.ndarray, record: Record, seed: int, *, resizes: bool) -> tuple[Any, Record]:
    """The image and the record that `transform` makes of theirs.

    Python's, NumPy's and torch's global random numbers follow from `seed` while it runs. `resizes` says whether it may
    change the image's size. Raises `ConfigError` if what it returns does not fit together.
    """
    masks = np.stack([np.zeros(record.size, dtype=bool), *(_bitmap(record, i) for i in range(len(record.labels)))])[1:]
    keypoints = None if record.keypoints is None else record.keypoints.copy()
    with _seeded(seed):
        returned = transform(image.copy(), record.boxes.copy(), masks, keypoints)
    where = f"the transform {name_of(transform)}, image {record.image_id} ({record.name})"
    if not isinstance(returned, tuple) or len(returned) != 4:
        raise ConfigError(f"{where}: it must return image, boxes, masks and keypoints; it returned {_kind(returned)}")
    moved = _image(returned[0], image, where)
    size = (moved.shape[0], moved.shape[1])
    if size != record.size and not resizes:
        raise ConfigError(
            f"{where}: it changed the image's size from {record.size} to {size} (height, width), for which the canvas "
            "is not made; set train.augment.crop, or leave the size as it is"
        )
    return moved, _record(record, returned, size, where)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global random numbers that follow from `seed`; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


def _bitmap(record: Record, i: int) -> np.ndarray:
    """An object's mask, bool [H W]; its filled box if it has no mask."""
    if (segmentation := record.segmentations[i]) is not None:
        return draw_bitmap(segmentation, record.size)
    bitmap = np.zeros(record.size, dtype=bool)
    x1, y1, x2, y2 = record.boxes[i].round().astype(int).clip(0).tolist()
    bitmap[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
    return bitmap


def _image(returned: Any, before: np.ndarray, where: str) -> np.ndarray:
    image = np.asarray(returned)
    if image.ndim != 3 or not image.size or image.shape[2] != before.shape[2] or image.dtype != before.dtype:
        raise ConfigError(
            f"{where}: the image must be {before.dtype} [height width {before.shape[2]}], as it came in; it is "
            f"{_kind(image)}"
        )
    return np.ascontiguousarray(image)


def _record(record: Record, returned: tuple[Any, Any, Any, Any], size: tuple[int, int], where: str) -> Record:
    """The objects that are left, in an image of `size`."""
    n = len(record.labels)
    masks = np.asarray(returned[2])
    masks = masks.reshape(0, *size) if n == 0 and masks.size == 0 else masks
    _expect(masks, (n, *size), "masks", n, where)
    masks = masks.astype(bool)
    tight, shown = _tight_boxes(masks), masks.any(axis=(1, 2))
    if returned[1] is None:
        boxes = tight
    else:
        boxes = np.asarray(returned[1], dtype=np.float32)
        boxes = boxes.reshape(0, 4) if n == 0 and boxes.size == 0 else boxes
        _expect(boxes, (n, 4), "boxes", n, where)
        boxes = boxes.clip(0, [size[1], size[0]] * 2).astype(np.float32)
    keep = shown & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    apart = keep & (_iou(boxes, tight) < _AGREE)
    if keep.any() and apart.sum() > keep.sum() / 2:
        i = int(np.flatnonzero(apart)[0])
        raise ConfigError(
            f"{where}: boxes and masks no longer agree; the box of object {i} is {boxes[i].round(1).tolist()}, but its "
            f"mask lies in {tight[i].tolist()} (x1, y1, x2, y2); move both, or return None for the boxes"
        )
    keypoints = record.keypoints
    if (keypoints is None) != (returned[3] is None):
        raise ConfigError(f"{where}: keypoints must be {'None' if keypoints is None else 'returned'}, as they came in")
    if keypoints is not None:
        found = np.asarray(returned[3], dtype=np.float32)
        _expect(found, keypoints.shape, "keypoints", n, where)
        keypoints = found
    # An object that never had a mask gets none.
    given = zip(masks, record.segmentations, strict=True)
    segmentations = [None if before is None else (counts_from_bitmap(mask), size) for mask, before in given]
    areas = masks.sum(axis=(1, 2)).astype(np.float64)
    moved = record._replace(size=size, boxes=boxes, keypoints=keypoints, segmentations=segmentations, areas=areas)
    return moved.select(np.asarray(keep))


def _expect(array: np.ndarray, shape: tuple[int, ...], what: str, n: int, where: str) -> None:
    if array.shape != shape:
        raise ConfigError(
            f"{where}: it got {n} objects and must return {what} of the shape {list(shape)}, in their order; it "
            f"returned {list(array.shape)}. An object that is gone keeps its place, with an empty mask"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ConfigError(f"{where}: the {what} are not finite")


def _tight_boxes(masks: np.ndarray) -> np.ndarray:
    """float32 [n 4]; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        bits, (y, x) = trimmed(mask)
        box[:] = x, y, x + bits.shape[1], y + bits.shape[0]
    return boxes


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n], of each box with the other one in its place."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    common = (high - low).clip(min=0).prod(axis=1)
    areas = [(one[:, 2:] - one[:, :2]).prod(axis=1) for one in (boxes, others)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, tuple):
        return f"{len(value)} values"
    return f"a {type(value).__name__}"
