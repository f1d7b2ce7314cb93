"""`maskrcnn.convert_data`. The command line reads its options here, so heavy imports wait until it runs."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..categories import Category
    from .dataset import Dataset
    from .split import Division

_WITHOUT_IMAGES = ("csv", "geojson", "parquet")  # formats that no command reads
_BY_STEM = ("cityscapes", "cvat", "voc", "yolo")  # formats that know an image by its name without the suffix


class Conversion(NamedTuple):
    """What was converted."""

    out: Path
    to: str
    images: dict[str, int]  # of each split
    objects: int
    lost: Counter[str]  # what the format cannot hold, and how often
    problems: list[str]  # lines on what was dropped and repaired when the data was read
    division: str  # how the images were divided; empty if they were not
    folder: Path | None  # below which the images were left; None if they were copied or linked, or there is no such

    def describe(self) -> list[str]:
        """What there is to say, as lines."""
        from .formats import losses

        parts = ", ".join(f"{count} {split}" for split, count in self.images.items())
        counted = f"{sum(self.images.values())} images" + (f" ({parts})" if set(self.images) != {"all"} else "")
        lines = [*self.problems, f"wrote {self.out}: {self.to}, {counted}, {self.objects:,} objects"]
        if self.folder is not None and self.to not in _WITHOUT_IMAGES:
            lines.append(
                f"the images stay in {self.folder}: name it with --images to read {self.out}, or convert with --images "
                "copy"
            )
        return [*lines, *filter(None, (self.division, losses(self.to, self.lost)))]


def convert_data(
    data: str | Path,
    out: str | Path,
    *,
    to: str,
    images: str = "refer",
    image_folder: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
    group_by: str | None = None,
    unlabelled: str | None = None,
    strict: bool = False,
) -> Conversion:
    """Writes a data set in another format, and returns what was written and what the format cannot hold.

    Splits of the data stay as they are. What an earlier call wrote into the folder is replaced.

    Args:
        data: Data set of any format: a file or a folder.
        out: Folder to write.
        to: Format to write.
        images: refer leaves the images where they are, copy copies them, link makes symbolic links.
        image_folder: Folder of the images, if they are not beside the annotations.
        split: Shares of train, val and perhaps test, such as 0.8,0.1,0.1, for data that is not divided.
        seed: Of the split.
        group_by: Regular expression on file names; images with the same match stay in one part of the split.
        unlabelled: Images without annotations: background or skip; default: as the format does.
        strict: Stop at the first bad record instead of skipping it.

    Raises `ConfigError`, also if the folder holds other files or if images that stay where they are could not be found
    again, and `DataError`; nothing is written then.
    """
    from .claim import claim, sign
    from .dataset import map_categories
    from .formats import WRITERS, ReadOptions, check_format, find, read_dataset, writer
    from .formats.writing import relative
    from .split import divide, parse_fractions

    check_format(to, WRITERS)
    if images not in ("refer", "copy", "link"):
        raise ConfigError(f"--images is refer, copy or link, not {images!r}; --image-folder names a folder")
    if group_by is not None and split is None:
        raise ConfigError("--group-by needs --split, such as --split 0.8,0.1,0.1")
    fractions = None if split is None else parse_fractions(split)
    folder = None if image_folder is None else Path(image_folder)
    sources = find(data, ReadOptions(folder, strict))
    sets = {
        name: read_dataset(source, folder, strict=strict, keypoints=None, unlabelled=unlabelled)
        for name, source in sources.items()
    }
    _require_something(sets.values())
    categories = _joined(sets.values())
    sets = {name: map_categories(part, categories)[0] for name, part in sets.items()}
    division: Division | None = None
    if fractions is not None:
        if len(sets) > 1:
            raise ConfigError(f"{data} is divided already into {', '.join(sets)}; --split divides a set that is not")
        (whole,) = sets.values()
        division = divide(whole, fractions, seed=seed, group_by=group_by)
        sets = {name: whole.subset(indices) for name, indices in division.parts.items()}
    elif len(sets) == 1:
        sets = {"all": next(iter(sets.values()))}
    place = _common_folder(sets.values()) if images == "refer" and to not in _WITHOUT_IMAGES else None
    if place is not None and to in _BY_STEM:
        _require_different_stems(sets.values(), to, place)
    target = Path(out)
    claim(target, inputs=_files(data, sets.values()))
    try:
        made = writer(to, target, categories, images)
        for name, part in sets.items():
            for i in range(len(part)):
                record = part.record(i, exact=True)
                if place is not None and record.path != place / record.name:  # of several folders: names below all
                    record = record._replace(name=relative(record.path, place))
                made.add(record, name)
        made.close()
    finally:
        sign(target)
    return Conversion(
        out=target,
        to=to,
        images={name: len(part) for name, part in sets.items()},
        objects=sum(int(part.annotation_counts.sum()) for part in sets.values()),
        lost=made.lost,
        problems=[line for part in sets.values() for line in part.report.lines(3)],
        division="" if division is None else division.describe(),
        folder=place,
    )


def _require_something(sets: "Iterable[Dataset]") -> None:
    """Raises `DataError`, with what was dropped, if no image is left of the data, or no object of those it had."""
    from .usable import require_usable

    if not any(len(part.object_rows()) for part in sets):
        for part in sets:
            if part.report.annotations_in_file or not len(part):
                require_usable(part, masks=False)


def _joined(sets: "Iterable[Dataset]") -> "list[Category]":
    """The categories of all splits, by name: those of the first, then what the others have more, with new ids."""
    known: dict[str, Category] = {}
    for dataset in sets:
        for category in dataset.categories:
            if category.name not in known:
                taken = {other.id for other in known.values()}
                id = category.id if category.id not in taken else max(taken) + 1
                known[category.name] = category._replace(id=id)
    return sorted(known.values())


def _common_folder(sets: "Iterable[Dataset]") -> Path | None:
    """The folder below which all images are; None without images. Raises `ConfigError` if only the whole disk is."""
    found = sorted({part.images.roots[root] for part in sets for root in set(part.images.root_of[part.rows].tolist())})
    if len(found) < 2:
        return found[0] if found else None
    try:
        common = Path(os.path.commonpath([root.absolute() for root in found]))
    except ValueError:  # on several drives
        common = Path(found[0].anchor)
    if common == Path(common.anchor):
        raise ConfigError(
            f"the images are in {', '.join(map(str, found))}, and --images names one folder; convert with --images copy"
        )
    return common


def _require_different_stems(sets: "Iterable[Dataset]", to: str, place: Path) -> None:
    """Raises `ConfigError` for two images whose names differ in the suffix only, or in capitals."""
    seen: dict[str, Path] = {}
    for part in sets:
        for path in map(part.path, range(len(part))):
            other = seen.setdefault(path.with_suffix("").as_posix().casefold(), path)
            if other != path:
                raise ConfigError(
                    f"{other.name} and {path.name} in {place} differ in the suffix or in capitals only, which {to} "
                    "cannot tell apart there; convert with --images copy"
                )


def _files(data: str | Path, sets: "Iterable[Dataset]") -> list[Path]:
    """Every file that is read."""
    return [Path(data), *(part.path(i) for part in sets for i in range(len(part)))]
