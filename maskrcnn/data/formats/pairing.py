"""Which mask files belong to which image, by their names and folders."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ...errors import DataError
from ...images import IMAGE_SUFFIXES
from ..label_images import LABEL_SUFFIXES
from ..names import names_below

_MASKS = re.compile(r"mask|(?<!un)label|annot|segm|instance|ground.?truth|(^|[^a-z])(seg|gt)($|[^a-z])")
_IMAGES = re.compile(r"image|img|photo|(^|[^a-z])(raw|rgb|inputs?|originals?)($|[^a-z])")
_OF_MASK = re.compile(
    r"(?:[_\-. ]+(?:cp|masks?|labels?|seg|segmentation|gt|ground_?truth|instances?|instance_?ids?|annotations?))+$",
    re.IGNORECASE,
)
_OF_IMAGE = re.compile(r"[_\-. ]+(?:images?|img|raw)$", re.IGNORECASE)
# What Cellpose writes beside its masks.
_OF_CELLPOSE = re.compile(r"_(?:flows|outlines|cp_output)(?:_cp_masks)?\.[^.]+$|_seg\.npy$")
_RASTERS = (*LABEL_SUFFIXES, ".jpg", ".jpeg")  # a mask as JPEG is found, too, and then refused by name


class Mask(NamedTuple):
    """A file with the masks of an image."""

    path: Path
    name: str  # below the folder of masks, as a table names it
    kind: str | None  # the folder that names its class
    whole: bool  # one object alone, in a file of its own


class Pairs(NamedTuple):
    """The images below a folder and their masks."""

    root: Path  # of the images
    masks: dict[str, list[Mask]]  # by the image's name below the root; an image without masks has an empty list
    alone: list[Path]  # masks without an image


class _Sides(NamedTuple):
    root: Path
    images: list[str]
    folder: Path  # of the masks
    masks: list[str]


def find_pairs(folder: Path, images: Path | None = None) -> Pairs | None:
    """The masks of the images below a folder; None if there are none. `images` is the folder of the images if it is
    not there.

    Raises `DataError` if two folders may be meant, or two masks of an image, or two images of a mask.
    """
    if (sides := _sides(folder, images)) is not None:
        pairs = _matched(sides)
    elif (subfolders := [sub for sub in _folders(folder) if _sides(sub, None) is not None]) and images is None:
        pairs = _joined(folder, [_of_one_image(_sides(sub, None)) for sub in subfolders])  # type: ignore[arg-type]
    else:
        pairs = _beside(folder)
    return pairs if any(pairs.masks.values()) else None


def why_none(folder: Path, images: Path | None = None) -> str | None:
    """What is missing if a folder has masks, but `find_pairs` found no pair; None if there are no masks."""
    sides = _sides(folder, images)
    if sides is None or not sides.masks or not _is_masks(sides.folder.name):
        return None
    if not sides.images:
        return f"{sides.folder}: there are masks, but no images beside them; name their folder with --images FOLDER"
    return (
        f"{sides.folder}: none of its {len(sides.masks)} masks has the name of one of the {len(sides.images)} images "
        f"in {sides.root}, such as {sides.masks[0]} and {sides.images[0]}"
    )


def _sides(folder: Path, images: Path | None) -> _Sides | None:
    """The folders of images and of masks; None if no folder holds masks alone."""
    holding = [sub for sub in _folders(folder) if _is_masks(sub.name) and next(_walk(sub, _RASTERS), None)]
    if len(holding) > 1:
        raise DataError(
            f"{folder}: {' and '.join(sub.name for sub in holding)} both may hold masks; name one of them and add "
            "--images FOLDER"
        )
    if images is not None:
        masks = holding[0] if holding else folder
        return _Sides(images, _names(images, IMAGE_SUFFIXES), masks, _names(masks, _RASTERS))
    if not holding:
        return None
    (masks,) = holding
    others = [sub for sub in _folders(folder) if _is_images(sub.name) and _names(sub, IMAGE_SUFFIXES)]
    if len(others) > 1:
        raise DataError(f"{folder}: {' and '.join(sub.name for sub in others)} both hold images; add --images FOLDER")
    root = others[0] if others else folder
    found = [name for name in _names(root, IMAGE_SUFFIXES) if root != folder or "/" not in name]
    return _Sides(root, found, masks, _names(masks, _RASTERS))


def _beside(folder: Path) -> Pairs:
    """Images and their masks in the same folder: the masks' names end in a word such as `_masks`."""
    names = _names(folder, IMAGE_SUFFIXES)
    stems = {_stem(name) for name in names}
    bare = stems | {_OF_IMAGE.sub("", stem) for stem in stems}
    masks = [
        name
        for name in names
        if name.lower().endswith(_RASTERS)
        and (stripped := _OF_MASK.sub("", _stem(name))) != _stem(name)
        and stripped in bare
    ]
    return _matched(_Sides(folder, sorted(set(names) - set(masks)), folder, masks))


def _of_one_image(sides: _Sides) -> Pairs:
    """A folder of its own for each image, as in the Data Science Bowl of 2018: all masks in it are that image's."""
    pairs = _matched(sides)
    if len(sides.images) == 1 and not pairs.masks[sides.images[0]]:
        masks = [Mask(sides.folder / name, name, None, whole=True) for name in sides.masks]
        return Pairs(sides.root, {sides.images[0]: masks}, [])
    return pairs


def _joined(folder: Path, parts: Sequence[Pairs]) -> Pairs:
    masks: dict[str, list[Mask]] = {}
    alone = []
    for part in parts:
        inside = part.root.relative_to(folder).as_posix()
        masks |= {f"{inside}/{name}": found for name, found in part.masks.items()}
        alone += part.alone
    return Pairs(folder, masks, alone)


def _matched(sides: _Sides) -> Pairs:
    """Finds the image of each mask by the first of these rules that fits one: the mask's name is that of the image with
    another suffix behind it (`a.jpg.png`), is the same but for its suffix, ends in a word such as `_mask`, or the
    image's ends in `_img`. The mask may be in a folder of its image's name, with a file for each object; in a folder of
    the name of its class; or both.
    """
    tables = _tables(sides)
    found: dict[str, list[Mask]] = {name: [] for name in sides.images}
    alone = []
    for name in sides.masks:
        for kind, rest in ((None, name), tuple(name.split("/", 1)) if "/" in name else (None, "")):
            if rest and (image := _image_of(_stem(rest), tables, sides, name)):
                found[image].append(Mask(sides.folder / name, name, kind, whole=False))
                break
            inside = PurePosixPath(rest).parent.as_posix()
            if rest and inside != "." and (image := _image_of(_plain(inside), tables, sides, name)):
                found[image].append(Mask(sides.folder / name, name, kind, whole=True))
                break
        else:
            alone.append(sides.folder / name)
    for image, masks in found.items():
        first: dict[str | None, Mask] = {}
        for mask in masks:
            other = first.setdefault(mask.kind, mask)
            if other is not mask and not (mask.whole and other.whole):
                raise DataError(
                    f"{sides.folder}: {other.name} and {mask.name} may both be the mask of {image}; remove one"
                )
    return Pairs(sides.root, found, alone)


def _tables(sides: _Sides) -> list[dict[str, list[str]]]:
    """For each rule the images by the name that it compares. An image with a mask by the first rule needs no other."""
    ends = [_stem(name) for name in sides.masks]
    exact = {*ends, *(end.partition("/")[2] for end in ends)}
    tables: list[dict[str, list[str]]] = [{}, {}, {}]
    for image in sides.images:
        stem = _stem(image)
        for table, key in zip(tables, (_plain(image), stem, _OF_IMAGE.sub("", stem)), strict=True):
            table.setdefault(key, []).append(image)
    for table in tables[1:]:
        for key, images in table.items():
            table[key] = [image for image in images if _plain(image) not in exact] or images
    return tables


def _image_of(stem: str, tables: list[dict[str, list[str]]], sides: _Sides, mask: str) -> str | None:
    stripped = _OF_MASK.sub("", stem)
    for table in tables:
        for key in (stem, stripped) if table is not tables[0] else (stem,):
            images = table.get(key, [])
            if len(images) > 1:
                raise DataError(
                    f"{sides.folder}: {mask} may be the mask of {' and of '.join(images[:2])} in {sides.root}; remove "
                    f"one of them, or call the mask {images[0]}.png"
                )
            if images:
                return images[0]
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith((".", "__MACOSX")))


def _is_masks(name: str) -> bool:
    return _MASKS.search(name.lower()) is not None


def _is_images(name: str) -> bool:
    return not _is_masks(name) and _IMAGES.search(name.lower()) is not None


def _names(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    return sorted(_walk(folder, suffixes))


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """The names of the files below a folder, without the by-products of Cellpose."""
    return (name for name in names_below(folder, suffixes) if not _OF_CELLPOSE.search(name))


def _stem(name: str) -> str:
    return _plain(PurePosixPath(name).with_suffix("").as_posix())


def _plain(name: str) -> str:
    """Composed accents: two systems store the same name differently."""
    return unicodedata.normalize("NFC", name)
