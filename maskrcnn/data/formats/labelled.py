"""What labelling tools have in common: images, found or embedded, and objects that are drawn in them."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ...categories import Category
from ...errors import DataError
from ..builder import DatasetBuilder
from ..dataset import Segmentation
from ..names import Found, ImageFinder
from . import ReadOptions, Source
from .embedded import unpack
from .files import size_of

_Shapes = TypeVar("_Shapes")


class Unusable(Exception):
    """Shapes that become no object, or an image; its arguments are the reason and a detail."""


class Thing(NamedTuple):
    """An object, as `DatasetBuilder.add_object` takes it."""

    label: str
    segmentation: Segmentation = None
    box: list[float] | None = None
    crowd: bool = False
    score: Any = None


class Labelled(NamedTuple):
    """An image and what is drawn in it."""

    name: str
    size: tuple[int, int] | None = None  # (height, width); None if there is no such file, or it cannot be read
    things: Sequence[Thing] = ()
    faults: Sequence[tuple[str, str]] = ()  # of shapes that are no things, reason and detail
    repairs: Sequence[tuple[str, str]] = ()
    root: Path | None = None  # the folder of an image that was embedded


def find_image(images: ImageFinder, names: Sequence[str], embedded: str, own_name: str, source: Path) -> Labelled:
    """The image that an annotation calls by one of these names, else what it embeds, which is then called `own_name`;
    else one of the first name, which the builder will not find. `images` has one root.
    """
    (root,) = images.roots
    for name in names:
        if isinstance(found := images.find(name), Found):
            return Labelled(found.name, size_of(root / found.name))
    if embedded:
        cache, name = unpack(embedded, own_name, root, source)
        return Labelled(name, size_of(cache / name), root=cache)
    return Labelled(names[0])


def with_things(image: Labelled, stated: Iterable[_Shapes], thing_of: Callable[[_Shapes], Thing]) -> Labelled:
    """The image with an object of each of the `stated`; of those that are `Unusable` with the fault."""
    things, faults = [], []
    for shapes in stated:
        try:
            things.append(thing_of(shapes))
        except Unusable as error:
            reason, detail = error.args
            faults.append((reason, f"{image.name}: {detail}"))
        except DataError as error:
            faults.append((str(error), image.name))
    return image._replace(things=things, faults=faults)


def builder_of(
    source: Source,
    images: Iterable[Labelled],
    categories: Sequence[Category],
    roots: Sequence[Path],
    options: ReadOptions,
) -> DatasetBuilder:
    """A builder with all images, numbered from 1 in the order of their names, and their objects.

    The images are below the first of the `roots` that has them, but for those that were embedded.
    """
    ordered = sorted(images, key=lambda image: image.name)
    labels, ids = {category.name: category.id for category in categories}, count(1)
    roots = list(dict.fromkeys([*roots, *(image.root for image in ordered if image.root is not None)]))
    builder = DatasetBuilder(source.path, categories, roots, strict=options.strict)
    for number, image in enumerate(ordered, start=1):
        builder.add_image(number, image.name, *(image.size or (None, None)))
        for reason, detail in image.faults:
            builder.refuse("annotation", reason, detail, image_id=number)
        for reason, detail in image.repairs:
            builder.report.add("repair", reason, detail, number)
        for label, mask, box, crowd, score in image.things:
            builder.add_object(
                number, labels.get(label, label), id=next(ids), box=box, segmentation=mask, crowd=crowd, score=score
            )
    return builder
