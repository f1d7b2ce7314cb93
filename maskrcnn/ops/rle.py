"""COCO's run-length encoding, written straight from an M x M mask and a box.

An RLE lists run lengths down the columns of the image, background first. pycocotools' compressed form stores each
length, from the fourth on as the difference from the length two before, in groups of five bits, low bits first. A group
becomes a character by adding 48, and 32 if more groups follow; bit 16 of the last group is the sign.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .dispatch import which
from .paste import check_rule, pad_masks, paste_reference, sample_positions

MAX_PIXELS = 2**32 - 1  # the format counts with 32 bits
_LONGEST = 8  # characters of a count: 40 bits, more than any image needs


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
    if which("rle", torch.device("cpu"), impl) == "numba":
        from .kernels.rle_numba import encode_numba as run
    else:
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


def string_from_counts(counts: np.ndarray | Sequence[int]) -> bytes:
    """The compressed RLE of run lengths. Raises ValueError for lengths that are negative or have more than 32 bits."""
    lengths = np.asarray(counts, dtype=np.int64)
    return strings_from_counts(lengths, np.array([0, len(lengths)]))[0]


def strings_from_counts(counts: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """`string_from_counts` of many objects: object n has the run lengths `counts[offsets[n]:offsets[n + 1]]`."""
    if counts.size and (counts.min() < 0 or counts.max() > MAX_PIXELS):
        raise ValueError(f"run lengths must be 0..{MAX_PIXELS}")
    place = np.arange(len(counts)) - np.repeat(offsets[:-1], np.diff(offsets))
    numbers = counts.copy()
    later = np.flatnonzero(place > 2)
    numbers[later] -= counts[later - 2]
    shifts = 5 * np.arange(7)
    rest = numbers[:, None] >> (shifts + 4)  # what remains after a group and its sign bit: 0 or -1 after the last
    more = (rest != 0) & (rest != -1)
    groups = (numbers[:, None] >> shifts) & 31
    written = np.concatenate([np.ones((len(numbers), 1), dtype=bool), more[:, :-1]], axis=1)
    text = (groups + 32 * more + 48)[written].astype(np.uint8).tobytes()
    ends = np.concatenate([[0], np.cumsum(written.sum(axis=1))])[offsets].tolist()
    return [text[first:last] for first, last in pairwise(ends)]


def decode_counts(
    characters: np.ndarray,  # uint8 [characters], all strings end to end; none is empty
    offsets: np.ndarray,  # int64 [strings + 1]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 counts of all strings end to end; int64 [strings], how many each has; bool [strings], whether it could be
    read. The counts of a string that could not are meaningless.
    """
    if not len(characters):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
    bits = characters.astype(np.int64) - 48
    last = (bits & 32) == 0  # of a count
    wrong = (bits < 0) | (bits > 63)
    wrong[offsets[1:] - 1] |= ~last[offsets[1:] - 1]
    last[offsets[1:] - 1] = True  # a string that ends within a count must not run into the next
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(bits)) - np.repeat(starts, ends + 1 - starts)
    wrong |= place >= _LONGEST
    place = np.minimum(place, _LONGEST)
    values = np.add.reduceat((bits & 31) << (5 * place), starts)
    values -= ((bits[ends] & 16) != 0) * (np.int64(1) << (5 * (place[ends] + 1)))
    lengths = np.add.reduceat(last.astype(np.int64), offsets[:-1])
    # Each count from the fourth on adds the one two places before it: running sums over odd and over even places.
    begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = np.arange(len(values)) - begins
    chained = np.where(place == 0, 0, values)  # the first count is stored as it is and starts no chain
    odd, even = np.cumsum(np.where(place % 2, chained, 0)), np.cumsum(np.where(place % 2, 0, chained))
    totals = np.where(place % 2, odd - odd[begins], even - even[begins])
    return np.where(place == 0, values, totals), lengths, ~np.logical_or.reduceat(wrong, offsets[:-1])


def check_size(size: Sequence) -> None:
    """Raises ValueError unless `size` is two whole numbers, (height, width), and the format can count the pixels."""
    if len(size) != 2 or not all(isinstance(side, int | np.integer) and side >= 0 for side in size):
        raise ValueError(f"an RLE's size must be [height, width], not {list(size)}")
    if int(size[0]) * int(size[1]) > MAX_PIXELS:
        raise ValueError(f"an RLE of {size[0]} x {size[1]} pixels is too large: the format counts at most {MAX_PIXELS}")
