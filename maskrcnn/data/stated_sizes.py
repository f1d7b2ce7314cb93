"""Sizes of images that a file states, against those of the image files: what the objects prove.

If width and height are exchanged, or those of an image before it was resized, objects reach beyond the stated size. If
none of them reaches beyond the file's, its size is the right one: the objects were drawn on it. Without such an object
nobody can know whether the coordinates are those of the file, and `usable.py` refuses the data.
"""

from collections.abc import Mapping

import numpy as np

from .image_rows import ImageRows
from .problems import Report

_FEWEST = 2  # objects that prove something
_PROVED = 0.9  # of the objects that reach beyond the stated size must fit the file's
_SAMPLE = 50  # images with such objects whose headers are read first
_SHARE = 0.05  # of the objects must reach beyond the stated size; fewer may be drawn carelessly
_SLACK = (1.0, 0.03)  # pixels, fraction of the side: so far an object may reach beyond its image


def settle_sizes(
    images: ImageRows,
    rows: np.ndarray,  # int64 [n], the image of each object
    bounds: np.ndarray,  # float64 [n 4], xyxy, NaN where nothing is stated
    rle_sizes: dict[int, tuple[int, int]],  # (height, width) by object, where it is not that of the image
    is_rle: np.ndarray,  # bool [n]
    report: Report,
) -> None:
    """Takes the files' sizes if the objects prove that the stated ones are wrong, and reports it."""
    stated = images.sizes()[rows]
    reach = bounds[:, [3, 2]]  # as (height, width)
    for i, size in rle_sizes.items():
        reach[i] = size
    odd = np.zeros(len(rows), bool)
    odd[list(rle_sizes)] = True
    beyond = _beyond(reach, stated) | odd
    suspects = np.unique(rows[beyond])
    if beyond.sum() < _FEWEST or not len(suspects):
        return
    sample = suspects[np.unique(np.linspace(0, len(suspects) - 1, min(len(suspects), _SAMPLE)).astype(int))]
    if not (files := _other_sizes(images, sample.tolist())):
        return
    judged = beyond & np.isin(rows, list(files))
    fits = _fits(files, rows[judged], reach[judged], odd[judged])
    if fits.sum() < _FEWEST or fits.mean() < _PROVED:
        return
    files = _other_sizes(images, range(len(images.sizes())))
    own = np.isin(rows, list(files))
    fits = _fits(files, rows[own], reach[own], odd[own]) & (odd | ~is_rle)[own]  # run lengths of the stated size
    for row in np.unique(rows[own][~fits]).tolist():
        del files[row]
    own = np.isin(rows, list(files))
    proofs = int((beyond & own).sum())
    if proofs < max(_FEWEST, _SHARE * own.sum()):
        return
    first = next(iter(files))
    (height, width), (true_height, true_width) = images.size(first), files[first]
    for row, size in files.items():
        images.resize(row, size)
    for i in [i for i, size in rle_sizes.items() if files.get(int(rows[i])) == size]:
        del rle_sizes[i]
    report.contradict(
        f"{len(files)} of {len(images.sizes())} images have another size than is stated, such as {true_height} x "
        f"{true_width} instead of {height} x {width} (height x width); {proofs} objects do not fit the stated size, "
        "but that of the file, which is taken"
    )


def _other_sizes(images: ImageRows, rows: "list[int] | range") -> dict[int, tuple[int, int]]:
    """The sizes in the files of images that state another; none of those that cannot be read."""
    found = {row: images.size_in_file(row) for row in rows}
    return {row: size for row, size in found.items() if size is not None and size != images.size(row)}


def _beyond(reach: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.any(reach > sizes + np.maximum(_SLACK[0], _SLACK[1] * sizes), axis=1)


def _fits(files: Mapping[int, tuple[int, int]], rows: np.ndarray, reach: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """bool: objects that fit the sizes of the files; run lengths fit one size only."""
    sizes = np.array([files[row] for row in rows.tolist()], np.float64).reshape(-1, 2)
    return np.where(odd, (reach == sizes).all(axis=1), ~_beyond(reach, sizes))
