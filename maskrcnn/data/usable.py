"""Whether a data set is of any use. Training and evaluation ask before they start, and `check` says the same."""

import filecmp
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..categories import Category
from ..errors import DataError
from ..images import image_size
from .dataset import NO_MASK, Dataset
from .problems import Problem

_SAMPLE = 50  # images whose headers are read before a run
_LISTED = 3  # problems of a reason that an error lists


def require_usable(
    dataset: Dataset, *, masks: bool, keypoints: bool = False, channels: int | None = None, noted: bool = True
) -> None:
    """Raises `DataError` if there is nothing to learn from or to measure; `noted` adds the data set's report as a note.

    `masks` and `keypoints` say whether these are to be learned; `channels` are those that an image needs, None: any.
    """
    if reason := reason_to_stop(dataset, masks=masks, keypoints=keypoints, channels=channels):
        error = DataError(f"{dataset.source}: {reason}")
        if noted and (lines := "\n".join(dataset.report.lines(_LISTED))):
            error.add_note(lines)
        raise error


def require_readable(dataset: Dataset, channels: int, part: str = "") -> None:
    """Raises `DataError` if no image can be read with so many channels. `part` names what was divided, for messages."""
    if reason := _no_readable_image(dataset, channels, part):
        raise DataError(f"{dataset.source}: {reason}")


def reason_to_stop(
    dataset: Dataset, *, masks: bool, keypoints: bool = False, channels: int | None = None
) -> str | None:
    """Why a data set must not be used, as a sentence with the way out; None if it may."""
    if dataset.report.unusable:
        return dataset.report.unusable
    if not len(dataset):
        lost = [str(problem) for problem in dataset.report.problems if problem.kind == "image"]
        return f"none of its {len(lost)} images can be used; the first: {lost[0]}" if lost else "there is no image"
    rows = dataset.object_rows()
    crowds = dataset.objects.ignore[rows]
    if not len(rows):
        return _no_objects(dataset)
    if crowds.all():
        return (
            f"all {len(rows)} objects are crowds (iscrowd 1), which are regions to ignore, so there is no object to "
            "learn or to find; set iscrowd to 0 if each is one object (CVAT writes 1 for brush masks)"
        )
    own = dataset.objects.keypoints
    if keypoints and (own is None or not (own[rows[~crowds], :, 2] > 0).any()):
        return "no keypoint is labelled (v is 0 for all of them), so there is none to learn; train without --keypoints"
    if masks and (dataset.objects.kinds[rows[~crowds]] == NO_MASK).all():
        reasons = Counter(problem.reason for problem in dataset.report.problems if problem.kind == "mask")
        why, way = "there are boxes only", "add"
        if reasons:
            why = f"{reasons.total()} masks were dropped: {reasons.most_common(1)[0][0]}"
            way = "mend them, or add"
        return f"no object has a mask ({why}), but the model has a mask head; {way} --no-masks for boxes alone"
    return sizes_that_contradict(dataset) or _no_readable_image(dataset, channels)


def require_common_class(dataset: Dataset, categories: Iterable[Category]) -> None:
    """Raises `DataError` if a data set has none of the classes of a model, which are matched by name."""
    names, theirs = [c.name for c in dataset.categories], [c.name for c in categories]
    if set(names) & set(theirs):
        return
    folded = {name.strip().casefold() for name in names} & {name.strip().casefold() for name in theirs}
    cause = "; the names differ in capitals or spaces only" if folded else ""
    raise DataError(
        f"{dataset.source}: the data set and the model have no class in common: {_listed(names)} here, "
        f"{_listed(theirs)} in the model{cause}; name them alike, or evaluate another model"
    )


def never_learned(dataset: Dataset, *, masks: bool) -> list[str]:
    """A sentence for each class whose objects are crowds, all of them; if `masks`, also for each without a mask, unless
    no class has any; and one for classes whose names hardly differ.
    """
    rows = dataset.object_rows()
    labels, crowds = dataset.objects.labels[rows], dataset.objects.ignore[rows]
    masked = ~crowds & (dataset.objects.kinds[rows] != NO_MASK)
    count = len(dataset.categories)
    all_, kept, with_mask = (np.bincount(labels[of], minlength=count) for of in (slice(None), ~crowds, masked))
    sentences = []
    names: dict[str, str] = {}
    for k, category in enumerate(dataset.categories):
        if all_[k] and not kept[k]:
            sentences.append(
                f"all {all_[k]} objects of {category.name} are crowds (iscrowd 1), so this class is never learned"
            )
        elif masks and kept[k] and not with_mask[k] and masked.any():
            sentences.append(f"no object of {category.name} has a mask, so masks of this class are never learned")
        other = names.setdefault(category.name.strip().casefold(), category.name)
        if other != category.name:
            sentences.append(
                f"the names {other!r} and {category.name!r} differ in capitals or spaces only, but "
                "are two classes; name them alike and give their objects one category_id if they are one"
            )
    return sentences


def shared_images(train: Dataset, val: Dataset) -> str | None:
    """A sentence about images that are in both; None if there are none. Copies have the same name and bytes."""
    own = {path.name: path for path in map(train.path, range(len(train)))}
    same = []
    for path in map(val.path, range(len(val))):
        other = own.get(path.name)
        if other is not None and (path == other or _equal(path, other)):
            same.append(path)
    if not same:
        return None
    return (
        f"{len(same)} of {len(val)} validation images are training images, too ({same[0].name}, ...), so the figures "
        "will be too good"
    )


# --- images and their headers ----------------------------------------------------------------------------------------


def compared_sizes(dataset: Dataset, indices: Iterable[int]) -> Iterator[Problem | None]:
    """For each image what is wrong with its header, or None: it cannot be read, or states another size."""
    for i in indices:
        try:
            with dataset.open(i):
                pass
        except DataError as error:
            yield Problem("image", dataset.report.file, dataset.stated_id(i), None, "unreadable", str(error))
        else:
            yield None


def checked_headers(dataset: Dataset, seconds: float) -> tuple[int, list[Problem]]:
    """How many images were looked at in that time, those of a sample first, and what is wrong with them."""
    start, problems, count = time.monotonic(), [], 0
    sample = _spread(len(dataset), _SAMPLE)
    for problem in compared_sizes(dataset, (*sample, *np.setdiff1d(np.arange(len(dataset)), sample).tolist())):
        problems += [problem] if problem else []
        count += 1
        if time.monotonic() - start > seconds and count >= len(sample):
            break
    return count, problems


def sizes_that_contradict(dataset: Dataset) -> str | None:
    """A sentence if most images of a sample have another size than annotated, with the likely cause."""
    turned, factors, first, count = 0, Counter(), "", 0
    for i in _spread(len(dataset), _SAMPLE):
        (height, width), path = dataset.sizes[i].tolist(), dataset.path(i)
        try:
            size = image_size(path)
        except DataError:
            continue
        count += 1
        if size == (height, width) or next(compared_sizes(dataset, [i])) is None:
            continue
        first = first or _differ(path.name, size, (height, width))
        ratios = size[0] / height, size[1] / width
        turned += size == (width, height)
        factors[round(ratios[0], 2) if abs(ratios[0] / ratios[1] - 1) < 0.02 else None] += 1
    wrong = factors.total()
    if 2 * wrong <= count:
        return None
    factor, often = factors.most_common(1)[0]
    if 2 * turned > wrong:
        cause = "height and width are exchanged in the annotations, or the images were rotated afterwards"
    elif factor is not None and 2 * often > wrong:
        cause = f"the images were resized by {factor:g} after they were annotated"
    else:
        cause = "these are not the images that were annotated"
    return (
        f"{wrong} of {count} images do not have the annotated size ({first}); {cause}: take the images that "
        "were annotated; or, if the coordinates are those of these images, delete width and height, which are then "
        "read from the files"
    )


def _differ(name: str, size: tuple[int, int], stated: tuple[int, int]) -> str:
    return f"{name} is {size[0]} x {size[1]}, its annotations say {stated[0]} x {stated[1]}, height x width"


def _no_readable_image(dataset: Dataset, channels: int | None, part: str = "") -> str | None:
    """A sentence if no image can be read. It opens images until one can be, so usually one."""
    first = ""
    for i in dict.fromkeys((*_spread(len(dataset), _SAMPLE), *range(len(dataset)))):
        try:
            with dataset.open(i) as image:
                image.read(channels=channels, box=next(image.bands()))
        except DataError as error:
            first = first or str(error)
        else:
            return None
    what = f"{part} images" if part else "images"
    return f"none of its {len(dataset)} {what} can be read; the first: {first}"


def _no_objects(dataset: Dataset) -> str:
    report = dataset.report
    if not report.annotations_in_file:
        return "there are no annotations, so there is no object to learn or to find"
    reasons = Counter(problem.reason for problem in report.problems if problem.kind == "annotation")
    if report.lost_with_image:
        reasons["their image was dropped"] += report.lost_with_image
    if not reasons:
        return "no image has an object, so there is no object to learn or to find"
    (reason, count), *_ = reasons.most_common(1)
    return f"no object is left of {report.annotations_in_file}; {count} were dropped: {reason}"


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


def _equal(one: Path, two: Path) -> bool:
    try:
        return filecmp.cmp(one, two, shallow=False)
    except OSError:
        return False
