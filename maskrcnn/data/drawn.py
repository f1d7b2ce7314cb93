"""The data set that comes with the package: textured, overlapping shapes, drawn from a seed and written as COCO.

Colour and texture do not tell an object: in each image the ground and all objects take theirs from one palette, and
are striped, chequered, cloudy or shaded alike. What tells an object is its outline, a slight relief and a shadow.
A quarter of the objects are more than a fifth covered by others; what is annotated is what can be seen.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..ops.rle import counts_from_bitmap, string_from_counts
from .drawn_shapes import CLASSES, FIGURE, FLIP_PAIRS, KEYPOINTS, SKELETON, Shape, shape_of

VERSION = 5  # of the drawing: another number means other images from the same seed
SIDE = 160  # height and width of an image, pixels
SMALLEST, LARGEST = 12, 100  # longer side of an object's visible box, pixels
SMALLEST_FIGURE = 36  # below, limbs are thinner than three pixels
TINY_FRACTION = 0.035  # of objects are hardly larger than the smallest
EMPTY_FRACTION = 0.03  # images without an object
CROWDED_FRACTION = 0.68  # of objects are put on another one, on purpose
LEAST_VISIBLE = 0.6  # of each object's area inside the image
SIGMA = 0.05  # of every keypoint, for OKS

COLOURS = 6  # of an image; two objects, or an object and the ground, share one in three cases of five

_SAMPLES = 3  # an edge pixel is the mean of 3 x 3 samples, the middle one of which decides the mask
_HALO = 8  # pixels around an object that its shadow reaches, and some to spare


class _Object(NamedTuple):
    label: int
    shape: Shape
    full: np.ndarray  # bool [SIDE SIDE], with what others cover
    visible: np.ndarray  # bool [SIDE SIDE]

    @property
    def covered(self) -> float:
        return 1 - float(self.visible.sum() / self.full.sum())


def draw_dataset(out: Path, *, train: int, val: int, seed: int, keypoints: bool = True) -> None:
    """Writes `train.json`, `val.json` and `images/*.png` under `out`. Equal seeds draw equal images, however many.

    Args:
        out: folder, made where it is missing. Where the same data set is already complete there, nothing is done.
        train, val: numbers of images. No two images share a seed, within a split or between them.
        seed: of everything.
        keypoints: annotate the keypoints of the figures, too.

    Every annotation carries, besides what COCO asks for, `covered`: the share of the object, 0..1, that others hide.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        info = {
            "description": "maskrcnn drawn shapes",
            "version": VERSION,
            "seed": seed,
            "images": count,
            "keypoints": keypoints,
        }
        if _already_there(out / f"{name}.json", info):
            continue
        images, annotations = [], []
        for i in range(count):
            pixels, objects = draw_scene(np.random.default_rng([seed, split, i]))
            image = {"id": i + 1, "file_name": f"{name}-{i + 1:05}.png", "height": SIDE, "width": SIDE}
            Image.fromarray(pixels).save(
                out / "images" / image["file_name"], compress_level=1, compress_type=3
            )  # 3: run lengths, the quickest
            images.append(image)
            for thing in objects:
                annotations.append(_annotation(thing, len(annotations) + 1, image["id"], keypoints))
        content = {"info": info, "images": images, "annotations": annotations, "categories": _categories(keypoints)}
        unfinished = out / f".{name}.json.part"
        unfinished.write_text(json.dumps(content, separators=(",", ":")))
        unfinished.replace(out / f"{name}.json")  # last: a json that stands there is complete


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[_Object]]:
    """One image, uint8 [SIDE SIDE 3], and its objects from back to front."""
    objects = _arrange(rng)
    palette = _palette(rng)
    pixels = _texture((SIDE, SIDE), palette, rng)
    for thing in objects:
        _paint(pixels, thing.shape, palette, rng)
    pixels += rng.uniform(1, 5) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8), objects


def _already_there(path: Path, info: dict[str, Any]) -> bool:
    try:
        return json.loads(path.read_text())["info"] == info
    except (OSError, ValueError, KeyError, TypeError):
        return False


# --- where things stand ---------------------------------------------------------------------------


def _arrange(rng: np.random.Generator) -> list[_Object]:
    """Objects from back to front. One that would hide too much of another, or be too small, gets another try."""
    objects: list[_Object] = []
    if rng.random() < EMPTY_FRACTION:
        return objects
    for _ in range(int(rng.integers(2, 7))):
        for _attempt in range(12):
            placed = _add(objects, _random_object(objects, rng))
            if placed is not None:
                objects = placed
                break
    return objects


def _random_object(objects: list[_Object], rng: np.random.Generator) -> _Object:
    label = int(rng.integers(len(CLASSES)))
    low = SMALLEST_FIGURE if label == FIGURE else SMALLEST
    small = rng.random() < TINY_FRACTION
    size = low + (LARGEST - low) * (0.08 * rng.random() if small else rng.beta(3.0, 2.0))
    if objects and rng.random() < CROWDED_FRACTION:
        x1, y1, x2, y2 = objects[int(rng.integers(len(objects)))].shape.box()
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
        distance = reach * (size + max(x2 - x1, y2 - y1)) / 2
        centre = (x1 + x2) / 2 + distance * np.cos(angle), (y1 + y2) / 2 + distance * np.sin(angle)
    else:
        centre = tuple(rng.uniform(0, SIDE, 2).tolist())
    margin = 0.4 * size  # at most a tenth of the size lies outside
    centre = tuple(min(max(float(c), margin), SIDE - margin) for c in centre)
    shape = shape_of(label, (centre[0], centre[1]), size, rng)
    pixel_centres = np.arange(SIDE) + 0.5
    mask = shape.inside(pixel_centres, pixel_centres)
    return _Object(label, shape, mask, mask)


def _add(objects: list[_Object], new: _Object) -> list[_Object] | None:
    """The objects with `new` in front of them, or None where that hides too much of one."""
    objects = [*(thing._replace(visible=thing.visible & ~new.full) for thing in objects), new]
    for thing in objects:
        if thing.covered > 1 - LEAST_VISIBLE or not SMALLEST <= max(_box(thing.visible)[2:]) <= LARGEST:
            return None
    return objects


def _box(mask: np.ndarray) -> list[float]:
    """x, y, width, height of a mask; zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0.0] * 4
    x, y = float(columns[0]), float(rows[0])
    return [x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y]


# --- what they look like --------------------------------------------------------------------------


def _palette(rng: np.random.Generator) -> np.ndarray:
    """float64 [COLOURS 3]: colours, 0..255. The ground has two of them and so has each object."""
    return rng.uniform(30, 225, (COLOURS, 3))


def _texture(size: tuple[int, int], palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64 [*size 3]: two colours of the palette, mixed by stripes, checks, clouds or a gradient."""
    y, x = np.arange(size[0])[:, None], np.arange(size[1])
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(5, 16), rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi
    match ("stripes", "checks", "clouds", "gradient")[rng.integers(4)]:
        case "stripes":
            mix = _steep(np.sin(along / period + phase))
        case "checks":
            across = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi
            mix = _steep(np.sin(along / period + phase) * np.sin(across / period))
        case "clouds":
            grain = rng.uniform(5, 20)  # pixels
            coarse = rng.uniform(0, 255, (round(size[0] / grain) + 1, round(size[1] / grain) + 1)).astype(np.uint8)
            mix = np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)) / 255
        case _:
            mix = np.sin(along / rng.uniform(90, 300) + phase) / 2 + 0.5
    first, second = palette[rng.choice(len(palette), 2, replace=False)]
    second = first + rng.uniform(0.2, 0.6) * (second - first)
    return first + mix[..., None] * (second - first)


def _steep(wave: np.ndarray) -> np.ndarray:
    """-1..1 to 0..1, with narrow transitions."""
    return np.clip(wave * 0.75 + 0.5, 0, 1)


def _paint(pixels: np.ndarray, shape: Shape, palette: np.ndarray, rng: np.random.Generator) -> None:
    """Puts a shape in front, in place: its shadow, its texture, light from the upper left and a dark contour."""
    box = shape.box()
    x1, y1 = int(box[0]) - _HALO, int(box[1]) - _HALO  # of the window that changes, which may reach beyond the image
    width, height = int(box[2]) + _HALO - x1, int(box[3]) + _HALO - y1
    x, y = (start + (np.arange(n * _SAMPLES) + 0.5) / _SAMPLES for start, n in ((x1, width), (y1, height)))
    samples = shape.inside(x, y).astype(np.float32).reshape(height, _SAMPLES, width, _SAMPLES)
    cover = np.einsum("hiwj->hw", samples) / _SAMPLES**2
    soft = _blur(cover)
    shadow = np.roll(_blur(soft), (2, 2), axis=(0, 1))
    relief = np.roll(soft, (-1, -1), axis=(0, 1)) - np.roll(soft, (1, 1), axis=(0, 1))
    contour = 1 - 0.8 * np.clip(1.6 * (1 - soft), 0, 1)
    light = rng.uniform(0.85, 1.15) * (1 + 0.45 * relief) * contour
    surface = _texture((height, width), palette, rng) * light[..., None]
    inside = slice(max(-y1, 0), SIDE - y1), slice(max(-x1, 0), SIDE - x1)
    ground = pixels[max(y1, 0) : y1 + height, max(x1, 0) : x1 + width]
    alpha = cover[inside][..., None]
    ground *= (1 - 0.4 * shadow[inside][..., None]) * (1 - alpha)
    ground += surface[inside] * alpha


def _blur(field: np.ndarray) -> np.ndarray:
    """Binomial, 5 x 5 pixels. `field` must be 0 along its border."""
    for axis in (0, 1):
        near = np.roll(field, 1, axis) + np.roll(field, -1, axis)
        far = np.roll(field, 2, axis) + np.roll(field, -2, axis)
        field = (6 * field + 4 * near + far) / 16
    return field


# --- what is written ------------------------------------------------------------------------------


def _categories(keypoints: bool) -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    if keypoints:
        categories[FIGURE] |= {
            "keypoints": list(KEYPOINTS),
            "skeleton": [[KEYPOINTS.index(start) + 1, KEYPOINTS.index(end) + 1] for start, end in SKELETON],
            "flip_pairs": [list(pair) for pair in FLIP_PAIRS],
            "sigmas": [SIGMA] * len(KEYPOINTS),
        }
    return categories


def _annotation(thing: _Object, id: int, image_id: int, keypoints: bool) -> dict[str, Any]:
    annotation: dict[str, Any] = {
        "id": id,
        "image_id": image_id,
        "category_id": thing.label + 1,
        "bbox": _box(thing.visible),
        "area": float(thing.visible.sum()),
        "iscrowd": 0,
        "segmentation": _segmentation(thing),
        "covered": round(thing.covered, 3),
    }
    if keypoints and thing.shape.keypoints is not None:
        annotation |= _keypoints(thing, thing.shape.keypoints)
    return annotation


def _segmentation(thing: _Object) -> list[list[float]] | dict[str, Any]:
    """The outline where nothing is covered, no hole and nothing beyond the border; else the visible pixels as RLE."""
    x1, y1, x2, y2 = thing.shape.box()
    whole = min(x1, y1) >= 0 and max(x2, y2) <= SIDE and not thing.shape.holes
    if whole and thing.covered == 0:
        return [part.ravel().tolist() for part in thing.shape.parts]
    counts = counts_from_bitmap(thing.visible)
    compressed = counts[0] % 2 == 1  # either form may stand in a file, so both do here
    return {"size": [SIDE, SIDE], "counts": string_from_counts(counts).decode() if compressed else counts.tolist()}


def _keypoints(thing: _Object, keypoints: np.ndarray) -> dict[str, Any]:
    """COCO's triples: v is 2 where the keypoint can be seen, 1 where something covers it, 0 outside the image.

    A keypoint in the middle of pixel i is written i, as COCO does, where outlines and boxes have i + 0.5.
    """
    triples: list[float] = []
    for x, y in keypoints.tolist():
        if not (0 <= x < SIDE and 0 <= y < SIDE):
            triples += [0, 0, 0]
        else:
            triples += [round(x - 0.5, 2), round(y - 0.5, 2), 2 if thing.visible[int(y), int(x)] else 1]
    return {"keypoints": triples, "num_keypoints": sum(v > 0 for v in triples[2::3])}
