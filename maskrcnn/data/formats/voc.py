"""Pascal VOC: an XML an image with the objects' boxes, and palette PNGs that say to which object each pixel belongs.

The devkit's tree (`Annotations`, `JPEGImages`, `SegmentationObject`, `ImageSets`), what CVAT and Datumaro write into
it, and plain folders of XML beside images, as labelImg and Roboflow write, are read. Objects that are difficult are
ignored, as VOC evaluates them; void pixels (255) belong to no object. Polygons within the XML are masks, too.

Coordinates are corners, as labelImg, CVAT and Roboflow write them. The files of VOC itself count pixels from 1 and
include the last one.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from PIL import Image

from ...errors import DataError
from ...images import IMAGE_SUFFIXES
from ..builder import DatasetBuilder
from ..dataset import Dataset, Record
from ..label_images import paint_objects
from ..names import names_below
from ..validate import BOX_TOLERANCE
from . import ReadOptions, Source
from .files import add_image_file, categories_by_name, read_lines, split_folders
from .voc_masks import CLASSES, NO_CLASSES, PALETTE, VOID, Mask, class_names, read_masks
from .writing import FormatWriter
from .xmls import has_root, load_xml, number, printable, side

_MOST_BYTES = 1 << 24  # of an XML
_IMAGES = ("JPEGImages", "images", "Images", "JPEGimages", "img", "imgs")
_SETS = {"train": "train", "val": "val", "test": "test"}
_WHOLE = ("trainval", "default", "all")
_ONE_BASED = re.compile(r"VOC\s?\d{4} Database", re.IGNORECASE)  # what VOC's own files name as their source


class _Tree(NamedTuple):
    """Where the parts of a data set are."""

    xml: Path
    images: tuple[Path, ...]
    instances: Path | None  # SegmentationObject
    classes: Path | None  # SegmentationClass
    labels: Path  # labelmap.txt, which may be missing
    sets: Path | None  # the folder with the lists of images


class _Object(NamedTuple):
    name: str
    box: list[float] | None  # x, y, width, height
    polygon: list[float] | None
    difficult: bool


class _File(NamedTuple):
    """An XML; without one, nothing is stated."""

    image: str = ""
    height: int = 0
    width: int = 0
    objects: tuple[_Object, ...] = ()


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A tree of the devkit with its lists as splits; a folder with XML beside images, or one for each split; an XML."""
    if place.is_file():
        is_voc = place.suffix.lower() == ".xml" and has_root(place, "annotation")
        return {"all": Source("voc", place)} if is_voc else {}
    if not place.is_dir():
        return {}
    if (tree := _tree(place)) is not None:
        return {split: Source("voc", place, split) for split in _lists(tree) or ("all",)}
    folders = split_folders(place).items()
    return {split: Source("voc", folder, split) for split, folder in folders if _tree(folder) or _has_xml(folder)}


def read(source: Source, options: ReadOptions) -> Dataset:
    """The images of a split with their objects; classes in the order of their names.

    An image without an XML and without masks is unlabelled: it is left out and counted unless
    `options.unlabelled` is "background". Raises `DataError`, naming the file, if one cannot be read.
    """
    tree = _tree_of(source.path)
    roots = [options.images] if options.images is not None else [folder for folder in tree.images if folder.is_dir()]
    images = _Images(roots)
    keys, chosen = _keys(tree, source, images)
    parsed = {key: _parse(path) for key in keys if (path := _xml_of(tree, key)) is not None}
    files = {key: file for key, file in parsed.items() if file is not None}
    keys = [key for key in keys if key in files or key not in parsed]
    masks = {key: path for key in keys if tree.instances and (path := tree.instances / f"{key}.png").is_file()}
    palette = class_names(tree.labels)
    names = {entry.name for file in files.values() for entry in file.objects}
    if not names and chosen:  # a test set without published objects: the classes of the other splits
        others = (_parse(tree.xml / name) for name in names_below(tree.xml, (".xml",)))
        names = {entry.name for file in others if file is not None for entry in file.objects}
    if masks and (palette or masks.keys() - files.keys()):
        names |= {name for _, name in palette}.difference(NO_CLASSES) if palette else set(CLASSES)
    if not names:
        raise DataError(f"{source.path}: none of its {len(keys)} images has an object with a class")
    builder = DatasetBuilder(source.path, categories_by_name(names), roots or [source.path], strict=options.strict)
    for key in parsed.keys() - files.keys():
        builder.report.add("repair", "XML that is not Pascal VOC's, passed over", f"{key}.xml")
    labels, digest, id = {category.name: category.id for category in builder.categories}, hashlib.sha256(), 0
    for key in keys:
        file = files.get(key, _File())
        name = images.of(key, file.image)
        if key not in files and key not in masks and options.unlabelled != "background":
            builder.refuse("image", "image without annotations", name)
            continue
        id += 1
        digest.update(f"{name}\0{file}".encode(errors="replace"))
        size = file.height, file.width
        if min(size) > 0:
            builder.add_image(id, name, *size)
        else:
            size = add_image_file(builder, id, images.path(name), name) or (0, 0)
        found = []
        if key in masks:
            digest.update(masks[key].read_bytes())
            path = None if tree.classes is None else tree.classes / f"{key}.png"
            found = read_masks(masks[key], path, size, palette, partial(_report, builder, id))
        _add_objects(builder, id, size, file, found, labels)
    for name in [] if chosen else images.unused():
        if options.unlabelled == "background":
            id += 1
            add_image_file(builder, id, images.path(name), name)
        else:
            builder.refuse("image", "image without annotations", name)
    return builder.build(digest.hexdigest())


class Writer(FormatWriter):
    """Writes the devkit's tree: boxes as XML, masks as palette PNGs, lists of the splits, and the classes' colours.

    A pixel belongs to one object: of masks that overlap, the smaller one is seen. `images="refer"` writes no images;
    the XML names their place, and `--images` names their folder when they are read again.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._lists: dict[str, list[str]] = {}
        self._blank: list[tuple[str, tuple[int, int]]] = []  # images without masks
        self._masked = False

    def add(self, record: Record, split: str = "all") -> None:
        name = self.own_name(record)  # all splits share their folders
        self.place(record, self.out / "JPEGImages", str(name))
        self.count_lost(record, scores=True)
        key = name.with_suffix("").as_posix()
        self._lists.setdefault("trainval" if split == "all" else split, []).append(key)
        masked = any(segmentation is not None for segmentation in record.segmentations)
        if masked:
            self._masked = True
            self._write_masks(record, key)
        else:
            self._blank.append((key, record.size))
        self._write_xml(record, name, segmented=masked)

    def close(self) -> None:
        for folder in ("Main", "Segmentation") if self._masked else ("Main",):
            for split, keys in self._lists.items():
                self._write_text(f"ImageSets/{folder}/{split}.txt", "".join(f"{key}\n" for key in keys))
        if self._masked:
            for key, size in self._blank:
                for folder in ("SegmentationObject", "SegmentationClass"):
                    self._write_png(folder, key, np.zeros(size, np.uint8))
            colours = ((name, PALETTE[i]) for i, name in enumerate(["background", *self.names][:255]))
            lines = (f"{_one_line(name)}:{','.join(map(str, colour))}::\n" for name, colour in colours)
            self._write_text("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))

    def _write_masks(self, record: Record, key: str) -> None:
        """The numbers of the objects are those of the XML."""
        lost = Counter[str]()
        numbers, _ = paint_objects(record, lost)
        del lost["box without a mask"]  # which the XML has
        if beyond := max(len(record.labels) - (VOID - 1), 0):
            lost[f"mask of an object beyond the {VOID - 1} that an image can have"] = beyond
        self.lost += lost
        numbers = np.where(numbers < VOID, numbers, 0).astype(np.uint8)
        values = np.zeros(VOID, np.uint8)
        values[1 : len(record.labels) + 1] = np.minimum(record.labels[: VOID - 1] + 1, VOID)
        self._write_png("SegmentationObject", key, numbers)
        self._write_png("SegmentationClass", key, values[numbers])

    def _write_png(self, folder: str, key: str, values: np.ndarray) -> None:
        image = Image.fromarray(values)
        image.putpalette(bytes(value for colour in PALETTE for value in colour))
        path = self.out / folder / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, compress_level=3)

    def _write_text(self, name: str, text: str) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _write_xml(self, record: Record, name: PurePosixPath, *, segmented: bool) -> None:
        root = Element("annotation")
        stated = {"folder": "JPEGImages", "filename": name.as_posix(), "path": str(record.path)}
        for tag, text in stated.items():
            SubElement(root, tag).text = printable(text)
        SubElement(SubElement(root, "source"), "database").text = "Unknown"
        size = SubElement(root, "size")
        for tag, value in (("width", record.size[1]), ("height", record.size[0]), ("depth", 3)):
            SubElement(size, tag).text = str(value)
        SubElement(root, "segmented").text = str(int(segmented))
        for i in range(len(record.labels)):
            entry = SubElement(root, "object")
            fields = {"name": printable(self.names[record.labels[i]]), "pose": "Unspecified", "truncated": "0"}
            for tag, text in (fields | {"difficult": str(int(record.ignore[i]))}).items():
                SubElement(entry, tag).text = text
            box = SubElement(entry, "bndbox")
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), record.boxes[i].tolist(), strict=True):
                SubElement(box, tag).text = f"{value:.12g}"
        ElementTree.indent(root, "\t")
        self._write_text(f"Annotations/{name.with_suffix('.xml')}", ElementTree.tostring(root, "unicode") + "\n")


def _one_line(name: str) -> str:
    return " ".join(printable(name).split())


def _tree_of(place: Path) -> _Tree:
    if place.is_file():
        tree = _tree(place.parent.parent) if place.parent.name.lower() == "annotations" else None
        return tree if tree is not None else _plain(place.parent)
    return _tree(place) or _plain(place)


def _tree(place: Path) -> _Tree | None:
    """The devkit's tree, as far as it is there; None if it is another."""
    folders = {path.name.lower(): path for path in sorted(place.iterdir()) if path.is_dir()}
    xml, instances = folders.get("annotations"), folders.get("segmentationobject")
    classes = folders.get("segmentationclass")
    if xml is not None and not _has_xml(xml):
        xml = None
    if xml is None and instances is None:
        if classes is not None and any(names_below(classes, (".png",))):
            raise DataError(
                f"{place}: has SegmentationClass, but neither SegmentationObject nor Annotations; which object a pixel "
                "belongs to is not stated"
            )
        return None
    images = tuple(place / name for name in _IMAGES if (place / name).is_dir()) or (place,)
    sets = folders.get("imagesets")
    kinds = ("Segmentation", "Main") if instances is not None else ("Main",)
    lists = [sets / kind for kind in kinds if any((sets / kind).glob("*.txt"))] if sets is not None else []
    xml = xml or place / "Annotations"
    return _Tree(xml, images, instances, classes, place / "labelmap.txt", lists[0] if lists else None)


def _plain(folder: Path) -> _Tree:
    return _Tree(folder, (folder,), None, None, folder / "labelmap.txt", None)


def _has_xml(folder: Path) -> bool:
    """Whether VOC's XML is among the first files of a folder, or of the folders in it."""
    paths = chain(sorted(folder.glob("*.xml")), folder.glob("*/*.xml"))
    return any(has_root(path, "annotation") for path in islice(paths, 50))


def _lists(tree: _Tree) -> dict[str, Path]:
    """The lists of images by split."""
    found = {path.stem.lower(): path for path in sorted(tree.sets.glob("*.txt"))} if tree.sets is not None else {}
    splits = {split: found[name] for name, split in _SETS.items() if name in found}
    if "train" not in splits:
        whole = next((found[name] for name in _WHOLE if name in found), None)
        splits |= {} if whole is None else {"all": whole}
    return splits


def _keys(tree: _Tree, source: Source, images: "_Images") -> tuple[list[str], bool]:
    """The images of a split by their names without a suffix, and whether a list chooses them."""
    if source.path.is_file():
        return [source.path.relative_to(tree.xml).with_suffix("").as_posix()], True
    path = _lists(tree).get(source.split)
    if path is None:
        masks = names_below(tree.instances, (".png",)) if tree.instances is not None else ()
        return sorted({name[:-4] for name in (*names_below(tree.xml, (".xml",)), *masks)}), False
    keys = {_key(line, images) for line in map(str.strip, read_lines(path)) if line}
    if outside := sorted(key for key in keys if key.startswith("/") or "\0" in key or ".." in key.split("/")):
        raise DataError(f"{path}: lists {outside[0]!r:.200}, which leaves the folder")
    return sorted(keys), True


def _key(line: str, images: "_Images") -> str:
    """A list may have quotes around a name with spaces, the suffix, or a flag after the name."""
    name = line.strip("\"'").replace("\\", "/")
    path = PurePosixPath(name)
    for key in (name, name.rpartition(" ")[0].strip(), (path.parent / path.stem).as_posix()):
        if key and key in images.names:
            return key
    return name


class _Images:
    """The images below some folders, by their names without the suffix."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots, self.names, self._all, self._used = roots, dict[str, str](), set[str](), set[str]()
        for root in roots:
            for name in names_below(root, IMAGE_SUFFIXES):
                self.names.setdefault(name.rpartition(".")[0], name)
                self._all.add(name)
        stems = Counter(PurePosixPath(name).stem for name in self.names.values())
        self._by_stem = {stem: n for n in self.names.values() if stems[stem := PurePosixPath(n).stem] == 1}

    def of(self, key: str, stated: str) -> str:
        """The image of an XML: the one with its name, else the one that it states; a name that is not there if none.
        Of several that differ in the suffix only it is the stated one."""
        exact = f"{key}{PurePosixPath(stated).suffix}"
        own = exact if exact in self._all else self.names.get(key)
        places = (own, *(self._by_stem.get(PurePosixPath(name).stem) for name in (key, stated)))
        name = next((name for name in places if name is not None and name not in self._used), f"{key}.jpg")
        self._used.add(name)
        return name

    def path(self, name: str) -> Path:
        return next((root / name for root in self.roots if (root / name).is_file()), Path(name))

    def unused(self) -> list[str]:
        return sorted(self._all - self._used)


def _xml_of(tree: _Tree, key: str) -> Path | None:
    places = (tree.xml / f"{key}{suffix}" for suffix in (".xml", ".XML"))
    return next((place for place in places if place.is_file()), None)


def _parse(path: Path) -> _File | None:
    root = load_xml(path, _MOST_BYTES)
    if root.tag != "annotation":
        return None
    one_based = _ONE_BASED.search(root.findtext("source/database") or "") is not None
    height, width = (
        side(root.findtext(f"size/{name}") or root.findtext(f"imagesize/{other}")) or 0
        for name, other in (("height", "nrows"), ("width", "ncols"))
    )
    image = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/")).name
    objects = tuple(_object(entry, one_based) for entry in root.iterfind("object") if entry.findtext("deleted") != "1")
    return _File(image, height, width, objects)


def _object(entry: Element, one_based: bool) -> _Object:
    corners = [number(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    box = None
    if None not in corners:
        x1, y1, x2, y2 = (value - (one_based and i < 2) for i, value in enumerate(corners) if value is not None)
        box = [x1, y1, x2 - x1, y2 - y1]
    difficult = (entry.findtext("difficult") or "").strip().lower() in ("1", "true")
    return _Object((entry.findtext("name") or "").strip(), box, _polygon(entry), difficult)


def _polygon(entry: Element) -> list[float] | None:
    """`<polygon><x1/><y1/><x2/>...` as Roboflow writes it, or `<polygon><pt><x/><y/></pt>...` as LabelMe's site did."""
    polygon = entry.find("polygon")
    if polygon is None:
        return None
    if (points := polygon.findall("pt")) != []:
        values = [number(point.findtext(axis)) for point in points for axis in ("x", "y")]
    else:
        own = {child.tag: number(child.text) for child in polygon}
        count = next(n for n in range(len(own) + 1) if f"x{n + 1}" not in own)
        values = [own.get(f"{axis}{n + 1}") for n in range(count) for axis in ("x", "y")]
    return [value for value in values if value is not None] if values and None not in values else None


def _add_objects(
    builder: DatasetBuilder,
    id: int,
    size: tuple[int, int],
    file: _File,
    masks: list[Mask],
    labels: dict[str, int],
) -> None:
    """The objects of the XML, each with its mask if there is one, and masks that are no object of the XML."""
    mask_of, spare = _matched(file.objects, masks)
    for place, entry in enumerate(file.objects):
        mask = mask_of.get(place)
        builder.add_object(
            id,
            labels.get(entry.name, entry.name),
            id=builder.report.annotations_in_file + 1,
            box=entry.box,
            segmentation=(mask.counts, size) if mask is not None else entry.polygon,
            crowd=entry.difficult,
        )
    for mask in spare:
        if mask.name is None:
            builder.refuse("annotation", "mask without a class", f"pixels of number {mask.number}", image_id=id)
        else:
            own_id = builder.report.annotations_in_file + 1
            builder.add_object(id, labels.get(mask.name, mask.name), id=own_id, segmentation=(mask.counts, size))


def _report(builder: DatasetBuilder, id: int, reason: str, detail: str) -> None:
    builder.report.add("part", reason, detail, id)


def _matched(objects: Sequence[_Object], masks: list[Mask]) -> tuple[dict[int, Mask], list[Mask]]:
    """The mask of each object by its place in the XML, and masks without an object.

    A mask's number is its object's place, counted from 1, if class and box agree; else the object with the best IoU of
    the boxes, at least one half, is taken.
    """
    found: dict[int, Mask] = {}
    spare: list[Mask] = []
    for mask in masks:
        place = mask.number - 1
        if 0 <= place < len(objects) and _agrees(objects[place], mask):
            found[place] = mask
        else:
            spare.append(mask)
    rest = []
    for mask in spare:
        ious = {
            place: _iou(entry, mask)
            for place, entry in enumerate(objects)
            if place not in found and mask.name in (None, entry.name)
        }
        best = max(ious, key=lambda place: ious[place], default=-1)
        if best >= 0 and ious[best] >= 0.5:
            found[best] = mask
        else:
            rest.append(mask)
    return found, rest


def _agrees(entry: _Object, mask: Mask) -> bool:
    if mask.name not in (None, entry.name):
        return False
    if entry.box is None:
        return True
    x, y, width, height = entry.box
    allowed = np.maximum(BOX_TOLERANCE[0], BOX_TOLERANCE[1] * np.array([width, height]))
    low, high = np.array([x, y]) - allowed, np.array([x + width, y + height]) + allowed
    return bool((mask.box[:2] >= low).all() and (mask.box[2:] <= high).all())


def _iou(entry: _Object, mask: Mask) -> float:
    if entry.box is None:
        return 0.0
    (x, y, width, height), (x1, y1, x2, y2) = entry.box, mask.box
    common = max(min(x + width, x2) - max(x, x1), 0) * max(min(y + height, y2) - max(y, y1), 0)
    return common / (width * height + (x2 - x1) * (y2 - y1) - common) if common else 0.0
