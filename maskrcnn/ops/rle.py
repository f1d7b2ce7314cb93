"""COCO's run-length encoding, written straight from an M x M mask and a box.

An RLE lists run lengths down the columns of the image, background first. pycocotools' compressed form stores each
length, from the fourth on as the difference from the length two before, in groups of five bits, low bits first. A group
becomes a character by adding 48, and 32 if more groups follow; bit 16 of the last group is the sign.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .dispatch import which
from .paste import check_rule, pad_masks, paste_reference, sample_positions

MAX_PIXELS = 2**32 - 1  # the format counts with 32 bits


def encode(
    masks: Float[Tensor, "N M M"],
    boxes: Float[Tensor, "N 4"],
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    rule: str = "grid",
    impl: str | None = None,
) -> list[dict]:
    """`{"size": [height, width], "counts": bytes}` of each object, equal to pycocotools' encoding of the pasted mask.

    Arguments as in `ops.paste.paste`; no image-size mask is made. Tensors on a GPU are copied to the host: they are
    small. Raises ValueError for an unknown rule, a threshold outside (0, 1) or an image too large for the format.
    """
    check_rule(rule, threshold)
    check_size(size)
    padded, boxes = pad_masks(masks.detach().cpu()), boxes.detach().float().cpu()
    match which("rle", torch.device("cpu"), impl):
        case "numba":
            from .kernels.rle_numba import encode_numba as run
        case _:
            run = encode_reference
    rows, columns = sample_positions(boxes, masks.shape[-1], size, rule)
    strings = run(padded, rows, columns, threshold, rule == "padded")
    return [{"size": [int(size[0]), int(size[1])], "counts": string} for string in strings]


def encode_reference(padded: Tensor, rows: Tensor, columns: Tensor, threshold: float, strict: bool) -> list[bytes]:
    """Defines `encode`: paste each mask, then encode the bitmap."""
    strings = []
    for n in range(len(padded)):
        part = slice(n, n + 1)
        bitmap = paste_reference(padded[part], rows[part], columns[part], threshold, strict)[0].numpy()
        strings.append(string_from_counts(counts_from_bitmap(bitmap)))
    return strings


def counts_from_bitmap(bitmap: np.ndarray) -> np.ndarray:
    """Run lengths, uint32, of a bitmap, bool [H W]. Raises ValueError beyond `MAX_PIXELS`."""
    check_size(bitmap.shape)
    pixels = bitmap.T.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    return np.diff(changes, prepend=0, append=len(pixels)).astype(np.uint32)


def counts_from_string(string: bytes | str) -> np.ndarray:
    """Run lengths, uint32, of a compressed RLE. Raises ValueError if the text is malformed or truncated.

    Memory depends on the length of the text, not on the run lengths; `check_counts` compares those with the image.
    """
    try:
        codes = np.frombuffer(string.encode("ascii") if isinstance(string, str) else bytes(string), dtype=np.uint8)
    except UnicodeEncodeError:
        raise ValueError("an RLE's counts hold characters that are not ASCII") from None
    if not len(codes):
        return np.zeros(0, dtype=np.uint32)
    if codes.min() < 48 or codes.max() > 111:
        raise ValueError("an RLE's counts hold characters outside '0'..'o'")
    groups = codes.astype(np.int64) - 48
    last = groups & 32 == 0
    if not last[-1]:
        raise ValueError("an RLE's counts end in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits hold every difference of 32-bit numbers
        raise ValueError("an RLE's counts hold a number of more than 32 bits")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((groups & 31) << shifts, starts)
    negative = groups[ends] & 16 != 0
    numbers -= negative.astype(np.int64) << (5 * lengths)
    return _undo_differences(numbers)


def _undo_differences(numbers: np.ndarray) -> np.ndarray:
    counts = numbers.copy()
    counts[1::2] = np.cumsum(numbers[1::2])
    counts[2::2] = np.cumsum(numbers[2::2])
    if (counts < 0).any() or (counts > MAX_PIXELS).any():
        raise ValueError("an RLE's counts hold a run of negative length, or of more than 32 bits")
    return counts.astype(np.uint32)


def string_from_counts(counts: np.ndarray | Sequence[int]) -> bytes:
    """The compressed RLE of run lengths. Raises ValueError for lengths that are negative or have more than 32 bits."""
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.size and (lengths.min() < 0 or lengths.max() > MAX_PIXELS):
        raise ValueError(f"run lengths must be 0..{MAX_PIXELS}")
    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    shifts = 5 * np.arange(7)
    rest = numbers[:, None] >> (shifts + 4)  # what remains after a group and its sign bit: 0 or -1 after the last
    more = (rest != 0) & (rest != -1)
    groups = (numbers[:, None] >> shifts) & 31
    written = np.concatenate([np.ones((len(numbers), 1), dtype=bool), more[:, :-1]], axis=1)
    return (groups + 32 * more + 48)[written].astype(np.uint8).tobytes()


def check_counts(counts: np.ndarray | Sequence, size: Sequence) -> None:
    """Raises ValueError unless the run lengths fill an image of `size` (height, width) that the format can hold."""
    check_size(size)
    lengths = np.asarray(counts)
    if lengths.ndim != 1 or (lengths.size and not np.issubdtype(lengths.dtype, np.integer)):
        raise ValueError("an RLE's counts must be a list of whole numbers")
    if lengths.size and lengths.min() < 0:
        raise ValueError("an RLE's counts hold a negative length")
    total, (height, width) = int(lengths.sum(dtype=np.float64)) if lengths.size else 0, size
    if total != height * width:
        raise ValueError(
            f"an RLE's counts add up to {total} pixels, but its size {height} x {width} has {height * width}"
        )


def check_size(size: Sequence) -> None:
    """Raises ValueError unless `size` is two whole numbers, (height, width), and the format can count the pixels."""
    if len(size) != 2 or not all(isinstance(side, int | np.integer) and side >= 0 for side in size):
        raise ValueError(f"an RLE's size must be [height, width], not {list(size)}")
    if int(size[0]) * int(size[1]) > MAX_PIXELS:
        raise ValueError(f"an RLE of {size[0]} x {size[1]} pixels is too large: the format counts at most {MAX_PIXELS}")
