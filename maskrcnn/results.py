"""What was found in one image, in its own pixels, as NumPy arrays and the files that people keep.

Masks stay M x M in their boxes, or run lengths if the image was seen in tiles. The RLE, the outlines and the image-size
masks are made from them when asked for; nothing holds detections x height x width unless `masks` is read.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .canvas import boxes_to_image, keypoints_to_image
from .categories import Category, keypoint_slices
from .config import ModelConfig
from .data.claim import claim, sign
from .data.dataset import Record, Segmentation
from .data.formats import WRITERS, check_format, writer
from .data.shapes import shapes_of_outline
from .errors import ConfigError
from .images import Page, display_image
from .notebook import crop, to_html, to_png
from .ops import rle, runs
from .ops.contour import Outline, trace
from .ops.paste import paste
from .structures import Detections, Images
from .thresholds import Thresholds

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("overlay", "coco")  # of files; the others write data sets
# `coco` means the rows of results. The format's own writer makes a data set with images and classes for other tools.
DATA_SETS = {"coco-dataset": "coco"}


@dataclass(frozen=True, repr=False)
class Instance:
    """Object `index` of a result. Masks and outlines are made when asked for."""

    result: "Result"
    index: int

    @property
    def box(self) -> np.ndarray:
        """float32 [4], xyxy, continuous pixels of the image."""
        return self.result.boxes[self.index]

    @property
    def score(self) -> float:
        """0..1."""
        return float(self.result.scores[self.index])

    @property
    def label(self) -> int:
        """The data set's category id."""
        return int(self.result.labels[self.index])

    @property
    def name(self) -> str:
        """The category's."""
        return self.result.names[self.index]

    @property
    def id(self) -> int | None:
        """The same in all frames of a video, or None if it was not tracked."""
        return None if self.result.ids is None else int(self.result.ids[self.index])

    @property
    def mask(self) -> np.ndarray:
        """bool [H W]. Raises `ConfigError` for a model without masks."""
        return self.result.mask(self.index)

    @property
    def polygons(self) -> list[np.ndarray] | None:
        """The outer outlines, float64 [n 2], (x, y), or None without masks."""
        polygons = self.result.select([self.index]).polygons
        return None if polygons is None else polygons[0]

    @property
    def keypoints(self) -> np.ndarray | None:
        """float32 [J 3], x, y, score, or None for a model without keypoints."""
        return None if self.result.keypoints is None else self.result.keypoints[self.index]

    def __repr__(self) -> str:
        box = ", ".join(f"{side:.1f}" for side in self.box.tolist())
        return f"Instance({self.name}, {self.score:.2f}, box [{box}])"


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The objects of one image, best first. D is how many, M the side of the stored masks, J all keypoints."""

    size: tuple[int, int]  # (height, width) of the image
    boxes: np.ndarray  # float32 [D 4], xyxy, continuous pixels of the image
    scores: np.ndarray  # float32 [D], 0..1
    labels: np.ndarray  # int64 [D], the data set's own category ids
    small_masks: np.ndarray | None = None  # float32 [D M M], probability inside the box
    codes: np.ndarray | None = None  # object [D] of bytes, COCO's compressed RLE: of a tiled image, in their place
    keypoints: np.ndarray | None = None  # float32 [D J 3], x, y, score; zeros for keypoints of other categories
    categories: tuple[Category, ...] = ()
    path: Path | None = None  # of the image, where it came from a file
    image: np.ndarray | None = field(default=None)  # uint8 [H W C], where it did not
    page: Page = None  # of a file with several, from 1; "max": the maximum over all
    image_id: int | str | None = None  # for COCO rows; the file's name without suffix where None
    frame: int | None = None  # of a video, from 1
    time: float | None = None  # of the frame, seconds since the first one
    ids: np.ndarray | None = None  # int64 [D], 1 or more: the same object in all frames; see `tracking.py`
    paste_rule: str = "grid"  # see ops.paste
    threshold: float = 0.5  # of masks
    inclusive: bool = False  # masks are laid over boxes that end on their last pixel (Detectron)
    keypoint_shift: float = 0.0  # taken off keypoints in COCO rows, which count pixels where `keypoints` measures
    scale: float = 1.0  # canvas pixels per pixel of the image: below 1 the model saw it shrunk
    tiles: int = 1  # in which the image was seen; see `tiling.py`
    thresholds: Thresholds = ()  # the least score of each of `categories`; empty: no object was left out

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, i: int) -> Instance:
        """Object i; negative numbers count from the end. Raises IndexError. `select` takes several objects."""
        return Instance(self, range(len(self))[i])

    def __iter__(self) -> Iterator[Instance]:
        return (Instance(self, i) for i in range(len(self)))

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "nothing"
        name = (self.path.name if self.path else "image") + (f" frame {self.frame}" if self.frame is not None else "")
        return f"Result({name}, {self.size[0]} x {self.size[1]}: {found})"

    @property
    def counts(self) -> dict[str, int]:
        """How many objects of each class there are; classes without objects are left out."""
        return dict(Counter(self.names))

    @property
    def stem(self) -> str:
        """What files of this result are called: the name of its image or video without suffix; frames are numbered."""
        stem = self.path.stem if self.path else "image"
        return stem if self.frame is None else f"{stem}-{self.frame:06}"

    @cached_property
    def names(self) -> list[str]:
        """The category's name of each object; "category 7" for an id that the categories lack."""
        known = {category.id: category.name for category in self.categories}
        return [known.get(label, f"category {label}") for label in self.labels.tolist()]

    @property
    def masks(self) -> np.ndarray | None:
        """bool [D H W], or None for a model without masks. D x H x W bytes: `mask(i)` makes one, `rle` none at all."""
        if self.codes is not None:
            return np.array([self.mask(i) for i in range(len(self))], dtype=bool).reshape(-1, *self.size)
        return None if self.small_masks is None else self._paste(slice(None))

    def mask(self, i: int) -> np.ndarray:
        """The mask of object i, bool [H W]. Raises ConfigError for a model without masks."""
        if self.codes is not None:
            whole = np.zeros(self.size, dtype=bool)
            part, (top, left) = self._bitmap(i)
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
            return whole
        if self.small_masks is None:
            raise ConfigError(f"{self!r} has no masks: its model has no mask branch")
        return self._paste([i])[0]

    @cached_property
    def rle(self) -> list[dict[str, Any]] | None:
        """COCO's compressed RLE of each object, `{"size": [H, W], "counts": bytes}`, or None without masks."""
        if self.codes is not None:
            return [{"size": [int(side) for side in self.size], "counts": code} for code in self.codes]
        if self.small_masks is None:
            return None
        masks, boxes = torch.from_numpy(self.small_masks), torch.from_numpy(self._mask_boxes())
        return rle.encode(masks, boxes, self.size, threshold=self.threshold, rule=self.paste_rule)

    @cached_property
    def outlines(self) -> list[Outline] | None:
        """Each object's outer outlines and holes, with sub-pixel vertices, or None without masks.

        Those of a tiled image follow the edges of its pixels and cut their corners.
        """
        if self.codes is not None:
            return [self._trace(i) for i in range(len(self))]
        if self.small_masks is None:
            return None
        return [
            trace(mask, box, self.size, threshold=self.threshold, rule=self.paste_rule)
            for mask, box in zip(self.small_masks, self._mask_boxes(), strict=True)
        ]

    @property
    def polygons(self) -> list[list[np.ndarray]] | None:
        """Each object's outer outlines, float64 [n 2], (x, y). Holes, which COCO's polygons lack, are in `outlines`."""
        return None if self.outlines is None else [outline.outer for outline in self.outlines]

    def select(self, keep: np.ndarray | Sequence[int]) -> "Result":
        """The objects at indices, or those for which a bool array is True: `result.select(result.scores > 0.7)`.

        Raises IndexError for indices that do not exist, a bool array of another length, and numbers with fractions.
        """
        index = np.asarray(keep)
        if index.dtype != bool and not np.issubdtype(index.dtype, np.integer) and index.size:
            raise IndexError(f"select takes indices or a bool array, not {index.dtype}: did you mean scores > 0.5?")
        if index.dtype == bool and index.shape != (len(self),):
            raise IndexError(f"a bool array needs one value for each of the {len(self)} objects; it has {index.shape}")
        rows = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        arrays = ("boxes", "scores", "labels", "small_masks", "codes", "keypoints", "ids")
        kept = {name: getattr(self, name)[rows] for name in arrays if getattr(self, name) is not None}
        made = replace(self, **kept)
        if self.__dict__.get("rle") is not None:  # made already
            made.__dict__["rle"] = [self.__dict__["rle"][i] for i in rows.tolist()]
        return made

    def with_ids(self, ids: np.ndarray) -> "Result":
        """The same objects with `ids`, int64 [D], of objects of a video."""
        made = replace(self, ids=ids)
        made.__dict__.update({name: self.__dict__[name] for name in ("rle", "outlines") if name in self.__dict__})
        return made

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """Rows of COCO's result format, ready for json: box as x, y, width, height, RLE, keypoints of the category.

        The format is a list of rows and nothing else, so each states the threshold that it had to reach.
        """
        chosen = image_id if image_id is not None else self.image_id if self.image_id is not None else self.stem
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(4).tolist()
        rows: list[dict[str, Any]] = [
            {"image_id": chosen, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(self.labels.tolist(), boxes, self.scores.tolist(), strict=True)
        ]
        for row, known in zip(rows, [] if self.ids is None else self.ids.tolist(), strict=self.ids is not None):
            row["track_id"] = known
        if self.time is not None:
            for row in rows:
                row["time"] = round(self.time, 4)
        for row, mask in zip(rows, self.rle or [], strict=self.rle is not None):
            row["segmentation"] = {"size": mask["size"], "counts": mask["counts"].decode("ascii")}
        least = dict(zip((category.id for category in self.categories), self.thresholds, strict=False))
        for row in rows if least else ():
            row["score_threshold"] = least[row["category_id"]]
        if self.keypoints is not None:
            ids = (category.id for category in self.categories)
            part = dict(zip(ids, keypoint_slices(self.categories), strict=True))
            shifted = self.keypoints.astype(np.float64) - [self.keypoint_shift, self.keypoint_shift, 0.0]
            for row, keypoints in zip(rows, shifted.round(4), strict=True):
                if (own := keypoints[part.get(row["category_id"], slice(0))]).size:
                    row["keypoints"] = own.ravel().tolist()
        return rows

    def record(self, image_id: int = 1, *, name: str | None = None, first_id: int = 1, shapes: bool = True) -> Record:
        """The same as a `data.formats.FormatWriter` takes it: a prediction is an annotated image with scores.

        Labels count from 0 in the order of `categories`. Masks are run lengths; `shapes` adds their sub-pixel outlines.

        Args:
            image_id: of the record.
            name: file name to write; default: the image's own.
            first_id: of the objects, which are numbered from there.
            shapes: whether to trace the outlines, which takes longer than all the rest.

        Raises ConfigError for a label that `categories` do not have.
        """
        known = {category.id: label for label, category in enumerate(self.categories)}
        if unknown := sorted(set(self.labels.tolist()) - known.keys()):
            raise ConfigError(f"{self!r} has labels without a category: {', '.join(map(str, unknown))}")
        labels = np.array([known[label] for label in self.labels.tolist()], dtype=np.int64)
        boxes = self.boxes.astype(np.float64)
        sides = boxes[:, 2:] - boxes[:, :2]
        segmentations: list[Segmentation] = [None] * len(self)
        areas = sides.prod(axis=1)
        if self.rle is not None:
            counts = _decoded([mask["counts"] for mask in self.rle])
            segmentations = [(lengths, self.size) for lengths in counts]
            areas = np.array([lengths[1::2].sum(dtype=np.int64) for lengths in counts], dtype=np.float64)
        path = self.path if self.frame is None else None  # a frame's image is in no file
        return Record(
            image_id=image_id,
            path=path or Path(f"{self.stem}.png"),
            size=self.size,
            boxes=boxes,
            labels=labels,
            ignore=np.zeros(len(self), dtype=bool),
            keypoints=None if self.keypoints is None else self._record_keypoints(labels),
            annotation_ids=np.arange(first_id, first_id + len(self), dtype=np.int64),
            segmentations=segmentations,
            areas=areas,
            name=name or (path.name if path else f"{self.stem}.png"),
            scores=self.scores.astype(np.float64),
            shapes=[shapes_of_outline(outline) for outline in self.outlines or []]
            if shapes and self.rle is not None
            else None,
            image=self.image,
            page=self.page,
            thresholds=self.thresholds,
        )

    def save(self, out: str | Path, formats: Sequence[str] = FORMATS, *, name: str | None = None) -> list[Path]:
        """Writes into folder `out`: `name`.png, the image with what was found; `name`.json, the rows of `to_coco`; in
        every other format a data set of this image in `FORMAT/name/`. `saving.Saver` writes many results into one.

        `name` is the image's own without suffix. Returns the files and folders. Raises ConfigError for an unknown
        format, for an overlay that would overwrite the image itself, and for a folder that holds other files already.
        """
        check_formats(formats)
        folder, name = Path(out), name or self.stem
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        if "overlay" in formats:
            files.append(folder / f"{name}.png")
            if self.path is not None and files[-1].exists() and files[-1].samefile(self.path):
                raise ConfigError(f"the overlay would overwrite the image {self.path}; save it in another folder")
            self.overlay().save(files[-1], compress_level=1)
        if "coco" in formats:
            files.append(folder / f"{name}.json")
            files[-1].write_text(json.dumps(self.to_coco()), encoding="utf-8")
        for form in (form for form in formats if form not in FORMATS):
            files.append(folder / form / name)
            claim(files[-1], inputs=[self.path] if self.path else [])
            each = writer(DATA_SETS.get(form, form), files[-1], self.categories)
            each.add(self.record())
            each.close()
            sign(files[-1])
        return files

    def overlay(self) -> "Image":
        """The image with masks, boxes, names, scores and keypoints drawn on it.

        Raises DataError if its file cannot be read, ValueError if there is no image or it has another size.
        """
        from .visualize import draw

        return draw(
            self._pixels(), self.boxes, self.scores, self.labels, self.names,
            outlines=self.outlines, keypoints=self.keypoints, categories=self.categories, ids=self.ids,
        )  # fmt: skip

    def show(self) -> None:
        """Opens the overlay in the system's viewer. In a notebook, a result shows itself."""
        self.overlay().show()

    def crop(self, i: int, margin: float = 0.0) -> "Image":
        """The part of the image in the box of object i, larger by `margin` of its sides at every side.

        Raises as `overlay`, and IndexError.
        """
        return crop(display_image(self._pixels()), self[i].box, margin)

    def to_df(self) -> Any:
        """A `pandas.DataFrame`, one row an object, with the columns of `--save csv`: class, score, box, area, ...

        Raises `ConfigError` if pandas is not installed.
        """
        from .data.formats.tables import to_df

        return to_df(self.record(shapes=False), self.categories)

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, whose masks take D x H x W bytes.

        Raises `ConfigError` if supervision is not installed.
        """
        try:
            import supervision  # type: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError("to_supervision needs supervision: pip install supervision") from error
        names = {"class_name": np.array(self.names)}
        return supervision.Detections(
            xyxy=self.boxes, mask=self.masks, confidence=self.scores, class_id=self.labels, data=names,
            tracker_id=self.ids,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        name = self.path.name if self.path else "image"
        title = f"{name}, {self.size[1]} x {self.size[0]} pixels, {len(self)} objects"
        return to_html(title, self.counts, self.overlay)

    def _repr_png_(self) -> bytes | None:
        return to_png(self.overlay)

    def _pixels(self) -> np.ndarray:
        """The image to draw on. Raises DataError, or ValueError if there is none or it has another size."""
        image = self.image
        if image is None:
            if self.path is None:
                raise ValueError(f"{self!r} has neither its image nor a path, so there is nothing to draw on")
            image = display_image(self.path, page=self.page)
        if image.shape[:2] != tuple(self.size):
            raise ValueError(f"the image is {image.shape[:2]}, but {self!r} was made for {tuple(self.size)}")
        return image

    def _record_keypoints(self, labels: np.ndarray) -> np.ndarray:
        """float32 [D J 3], as COCO counts pixels; all keypoints of the object's category are visible, others zero."""
        assert self.keypoints is not None
        keypoints = np.zeros_like(self.keypoints)
        slices = keypoint_slices(self.categories)
        for i, label in enumerate(labels.tolist()):
            keypoints[i, slices[label], :2] = self.keypoints[i, slices[label], :2] - self.keypoint_shift
            keypoints[i, slices[label], 2] = 2
        return keypoints

    def _paste(self, index: slice | list[int]) -> np.ndarray:
        assert self.small_masks is not None
        masks, boxes = torch.from_numpy(self.small_masks[index]), torch.from_numpy(self._mask_boxes()[index])
        return paste(masks, boxes, self.size, threshold=self.threshold, rule=self.paste_rule).numpy()

    @cached_property
    def _runs(self) -> runs.Runs:
        """The masks of a tiled image, decoded once for all objects."""
        assert self.codes is not None
        return runs.decode(self.codes.tolist())

    def _bitmap(self, i: int) -> tuple[np.ndarray, tuple[int, int]]:
        """The pixels of object i in their own box, and its corner, (y, x)."""
        return runs.bitmap(self._runs, i, self.size[0])

    def _trace(self, i: int) -> Outline:
        part, (top, left) = self._bitmap(i)
        box = np.array([left, top, left + part.shape[1], top + part.shape[0]])
        return trace(part, box, self.size) if part.size else Outline([], [])

    def _mask_boxes(self) -> np.ndarray:
        """float32 [D 4]: what the masks are laid over."""
        return self.boxes - np.array([0, 0, 1, 1], np.float32) if self.inclusive else self.boxes


def check_formats(formats: Sequence[str]) -> None:
    """Raises ConfigError for a format in which results cannot be saved, with the list and the nearest name."""
    if isinstance(formats, str):
        raise ConfigError(f"formats are a list, such as ['overlay', 'coco']; not {formats!r}")
    known = (*FORMATS, *DATA_SETS, *(name for name in WRITERS if name not in DATA_SETS.values()))
    for name in formats:
        check_format(name, known)


def from_detections(
    detections: Detections,
    images: Images,
    config: ModelConfig,
    categories: Sequence[Category],
    paths: Sequence[Path | None] | None = None,
    *,
    originals: Sequence[np.ndarray | None] | None = None,
    image_ids: Sequence[int | str] | None = None,
) -> list[Result]:
    """One `Result` for each image of a batch: canvas boxes and keypoints brought back to the image's own pixels.

    Boxes are cut to the image and dropped if nothing is left. `categories` are those of the labels 0..K-1, in that
    order; `originals` the images, uint8 [H W C], that came from no file.
    """
    inclusive = config.box_arithmetic.inclusive
    boxes = boxes_to_image(detections.boxes.float(), images, inclusive=inclusive)
    keypoints = detections.keypoints
    keypoints = None if keypoints is None else _numpy(keypoints_to_image(keypoints.float(), images))
    keep = _numpy(detections.valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1))
    corners, scores, labels = _numpy(boxes), _numpy(detections.scores.float()), _numpy(detections.labels)
    masks = None if detections.masks is None else _numpy(detections.masks.float())
    ids = np.array([category.id for category in categories], dtype=np.int64)
    results = []
    for b, (height, width) in enumerate(images.original_sizes.tolist()):
        mine = keep[b]
        results.append(
            Result(
                size=(height, width),
                boxes=corners[b][mine],
                scores=scores[b][mine],
                labels=ids[labels[b][mine]],
                small_masks=None if masks is None else masks[b][mine],
                keypoints=None if keypoints is None else _only_own(keypoints[b][mine], labels[b][mine], categories),
                categories=tuple(categories),
                path=paths[b] if paths else None,
                image=originals[b] if originals else None,
                image_id=image_ids[b] if image_ids else None,
                paste_rule=config.mask_head.paste,
                threshold=config.mask_head.threshold,
                inclusive=inclusive,
                keypoint_shift=config.keypoint_head.shift,
                scale=float(images.scales[b].min()),
            )
        )
    return results


def _only_own(keypoints: np.ndarray, labels: np.ndarray, categories: Sequence[Category]) -> np.ndarray:
    """The keypoints with those of other categories than the object's set to zero."""
    own = np.zeros((len(categories), keypoints.shape[1], 1), dtype=keypoints.dtype)
    for label, part in enumerate(keypoint_slices(categories)):
        own[label, part] = 1
    return keypoints * own[labels]


def _decoded(strings: list[bytes]) -> list[np.ndarray]:
    """uint32 run lengths of each compressed RLE."""
    offsets = np.cumsum([0, *map(len, strings)])
    counts, lengths, _ = rle.decode_counts(np.frombuffer(b"".join(strings), np.uint8), offsets)
    return [part.astype(np.uint32) for part in np.split(counts, np.cumsum(lengths)[:-1])][: len(strings)]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
