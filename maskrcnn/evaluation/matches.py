"""What an evaluation leaves behind so that runs can be compared: which detections are right at each IoU, by image.

From it AP follows for any list of images, so also for lists that are drawn again and again from the data set
(bootstrap, Efron 1979). The spread of these APs, or of the differences between two runs on the same lists, tells what
is noise. It is a few bytes a detection: no boxes, no masks.
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.dataset import Dataset
from ..errors import DataError
from ..files import replacing
from .coco import Curves
from .errors import Judgement
from .sparse import IOUS, RECALLS, Objects, close_pairs, curve_of, match

MATCHES = "matches.npz"
_ELEMENTS = 2**21  # of an array of the bootstrap, 16 MiB; never fewer than one list of images at once
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections D and objects of one task on N images, K classes. Within a class the best scores come first."""

    fingerprint: str  # of the data set
    names: tuple[str, ...]  # of the K classes
    image_ids: np.ndarray  # int64 [N]
    images: np.ndarray  # int32 [D], places among the N
    labels: np.ndarray  # int32 [D]
    scores: np.ndarray  # float32 [D]
    right: np.ndarray  # bool [10 D], matched to an object, at the IoUs 0.50, 0.55 .. 0.95
    counted: np.ndarray  # bool [10 D], right or wrong; not matched to a crowd
    object_images: np.ndarray  # int32 [n], of each object that can be found
    object_labels: np.ndarray  # int32 [n]


def matches_of(judgement: Judgement, dataset: Dataset) -> dict[str, Matches]:
    """The tables of boxes and, if the judgement is of masks, of masks."""
    truth, found = judgement.truth, judgement.found
    crowds = dataset.objects.ignore[dataset.object_rows()]
    boxes = Objects(truth.images, truth.labels, truth.boxes, truth.areas, ignore=crowds)
    tables = {"box": _table(boxes, found, dataset)}
    if truth.runs is not None:
        tables["mask"] = _table(truth, found, dataset)
    return tables


def _table(truth: Objects, found: Objects, dataset: Dataset) -> Matches:
    assert found.scores is not None
    crowds = np.zeros(len(truth.images), dtype=bool) if truth.ignore is None else truth.ignore
    number, objects, ious = close_pairs(truth, found)
    matched = match((number, objects, ious), len(found.images), crowds, crowds)
    crowded = np.append(crowds, False)[matched]
    order = np.lexsort((-found.scores, found.labels))  # stable: equal scores keep the order of their images
    return Matches(
        fingerprint=dataset.fingerprint,
        names=tuple(category.name for category in dataset.categories),
        image_ids=dataset.image_ids.astype(np.int64),
        images=found.images[order].astype(np.int32),
        labels=found.labels[order].astype(np.int32),
        scores=found.scores[order].astype(np.float32),
        right=((matched >= 0) & ~crowded)[:, order],
        counted=~crowded[:, order],
        object_images=truth.images[~crowds].astype(np.int32),
        object_labels=truth.labels[~crowds].astype(np.int32),
    )


# --- the file --------------------------------------------------------------------------------------------------------


def write_matches(folder: Path, tables: Mapping[str, Matches]) -> None:
    """Writes the tables of all tasks into a folder, as `matches.npz`."""
    arrays: dict[str, np.ndarray] = {"version": np.array(_VERSION)}
    for task, table in tables.items():
        named = {**vars(table), "fingerprint": np.array(table.fingerprint), "names": np.array(table.names, dtype=str)}
        named |= {name: np.packbits(named[name], axis=1) for name in ("right", "counted")}
        arrays |= {f"{task}.{name}": array for name, array in named.items()}
    with replacing(folder / MATCHES) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_matches(folder: Path) -> dict[str, Matches]:
    """The tables by task; empty if the folder has none. Raises `DataError` if they cannot be read."""
    path = folder / MATCHES
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored["version"]) != _VERSION:
                raise DataError(f"{path} is of another release; evaluate again to compare this run")
            arrays = {name: stored[name] for name in stored.files}
        tasks = dict.fromkeys(name.partition(".")[0] for name in arrays if "." in name)
        return {task: _read(arrays, task) for task in tasks}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it, or evaluate again to compare this run") from error


def _read(arrays: Mapping[str, np.ndarray], task: str) -> Matches:
    named = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{task}.")}
    count = len(named["images"])
    bits = {
        name: np.unpackbits(named[name], axis=1, count=count).astype(bool).reshape(len(IOUS), count)
        for name in ("right", "counted")
    }
    texts = {"fingerprint": str(named["fingerprint"]), "names": tuple(map(str, named["names"].tolist()))}
    return Matches(**{**named, **bits, **texts})  # type: ignore[arg-type]


# --- average precision of any list of images -------------------------------------------------------------------------


def draw_lists(images: int, count: int, seed: int = 0) -> np.ndarray:
    """How often each image is in each of `count` lists of as many images, drawn with replacement: int32 [B N]."""
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(count))
    return np.array(list(drawn), dtype=np.int32).reshape(count, images)


def average_precisions(matches: Matches, times: np.ndarray) -> np.ndarray:
    """AP of each class at each IoU on lists that hold image n times[b, n] times: float64 [B K 10].

    NaN for a class that has no object in a list. It is what COCO's evaluation gives for that list of images: AP changes
    only at detections that are right, and several copies of one move precision and recall like the last of them, so
    lists are weights, and nothing is sorted again.

    Args:
        times: int [B N].
    """
    K = len(matches.names)
    result = np.full((len(times), K, len(IOUS)), np.nan)
    order = np.argsort(matches.object_labels, kind="stable")
    objects = np.split(matches.object_images[order], np.searchsorted(matches.object_labels[order], np.arange(1, K)))
    for label, mine in enumerate(_classes(matches)):
        if not len(objects[label]):
            continue
        step = max(1, _ELEMENTS // max(mine.stop - mine.start, len(objects[label])))
        for first in range(0, len(times), step):
            part = times[first : first + step]
            wanted = part[:, objects[label]].sum(axis=1)
            weights = part[:, matches.images[mine]]
            values = _of_class(weights, wanted, matches.right[:, mine], matches.counted[:, mine])
            result[first : first + step, label] = np.where(wanted[:, None] > 0, values, np.nan)
    return result


def _of_class(weights: np.ndarray, wanted: np.ndarray, right: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """AP [B T] of detections, best first, that are there weights[b, d] times, [B D], of `wanted` objects [B]."""
    values = np.zeros((len(weights), len(right)))
    seen, of = np.zeros(0), None
    for t, row in enumerate(counted):
        at = np.flatnonzero(right[t])
        if not len(at):
            continue
        if of is None or not np.array_equal(row, of):  # mostly all IoUs count the same detections
            seen, of = np.cumsum(weights * row, axis=1), row
        hits = np.cumsum(weights[:, at], axis=1)
        precision = hits / (seen[:, at] + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        places = np.searchsorted(RECALLS, hits / np.maximum(wanted, 1)[:, None], side="right")
        values[:, t] = (precision * np.diff(places, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return values


def mean_precision(values: np.ndarray) -> np.ndarray:
    """AP over the classes that have objects, float64 [B], of AP by class [B K 10]; NaN if none has."""
    known = ~np.isnan(values[..., 0])
    total = np.where(known, values.mean(axis=2), 0).sum(axis=1)
    return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1))


def curves_of(matches: Matches) -> Curves:
    """The precision-recall curves of all images."""
    K = len(matches.names)
    precision, scores = np.full((len(IOUS), len(RECALLS), K), np.nan), np.zeros((len(IOUS), len(RECALLS), K))
    wanted = np.bincount(matches.object_labels, minlength=K)
    for label, mine in enumerate(_classes(matches)):
        if wanted[label]:
            hit, free = matches.right[:, mine], ~matches.counted[:, mine]
            curve, _, at = curve_of(hit, free, matches.scores[mine].astype(np.float64), int(wanted[label]))
            precision[:, :, label], scores[:, :, label] = curve, at
    return Curves(RECALLS, IOUS, precision, scores, matches.names)


def _classes(matches: Matches) -> Iterator[slice]:
    begins = np.searchsorted(matches.labels, np.arange(len(matches.names) + 1)).tolist()
    return map(slice, begins[:-1], begins[1:])
