"""The data set that comes with the package: textured, overlapping shapes, drawn from a seed and written as COCO.

Colour and texture do not give an object away: in each image the ground and all objects take theirs from one palette and
may be striped, chequered, cloudy or shaded. Only its outline, a slight relief and a shadow do. A quarter of the objects
are more than a fifth covered by others; the annotations show what can be seen.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..files import replacing
from ..ops.rle import counts_from_bitmap, string_from_counts

CLASSES = ("disc", "box", "triangle", "star", "ring", "figure")
FIGURE = CLASSES.index("figure")
# Start, end, length and half the width of a limb, in units of half the figure's height.
_LIMBS = (
    ("shoulder", "elbow", 0.36, 0.15),
    ("elbow", "hand", 0.34, 0.14),
    ("hip", "knee", 0.42, 0.18),
    ("knee", "foot", 0.42, 0.16),
)
_BONES = (("shoulder", "elbow"), ("elbow", "hand"), ("shoulder", "hip"), ("hip", "knee"), ("knee", "foot"))
_ENDS = ("shoulder", "elbow", "hand", "hip", "knee", "foot")
KEYPOINTS = ("head", *(f"{side}_{end}" for end in _ENDS for side in ("left", "right")))
SKELETON = (
    *(("head", f"{side}_shoulder") for side in ("left", "right")),
    *((f"{side}_{start}", f"{side}_{end}") for side in ("left", "right") for start, end in _BONES),
)
FLIP_PAIRS = tuple((i, i + 1) for i in range(1, len(KEYPOINTS), 2))

VERSION = 5  # of the drawing: with another number the same seed draws other images
SIDE = 160  # height and width of an image, pixels
SMALLEST, LARGEST = 12, 100  # longer side of an object's visible box, pixels
SMALLEST_FIGURE = 36  # in a smaller one, limbs are thinner than three pixels
TINY_FRACTION = 0.035  # of objects that are hardly larger than the smallest
EMPTY_FRACTION = 0.03  # of images without an object
CROWDED_FRACTION = 0.68  # of objects that are placed on another one
LEAST_VISIBLE = 0.6  # fraction of each object's area inside the image
SIGMA = 0.05  # of every keypoint, for OKS
COLOURS = 6  # of an image; two objects, or an object and the ground, share one in three cases of five

_SAMPLES = 3  # a pixel is the mean of 3 x 3 samples, of which the middle one decides the mask
_HALO = 8  # pixels around an object that its shadow may reach


class Shape(NamedTuple):
    """The union of `parts` without the union of `holes`: polygons, float64 [n 2], x and y in continuous pixels."""

    parts: list[np.ndarray]
    holes: list[np.ndarray]
    keypoints: np.ndarray | None  # float64 [13 2]

    def box(self) -> tuple[float, float, float, float]:
        """Tight box of the parts, xyxy."""
        points = np.concatenate(self.parts)
        return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """bool [len(y) len(x)]: which points of a grid, both axes ascending, lie in the shape."""
        mask = np.zeros((len(y), len(x)), dtype=bool)
        for polygons, value in ((self.parts, True), (self.holes, False)):
            for polygon in polygons:
                rows, columns, inside = _inside_polygon(polygon, x, y)
                mask[rows, columns][inside] = value
        return mask


class _Object(NamedTuple):
    label: int
    shape: Shape
    full: np.ndarray  # bool [SIDE SIDE], including what others cover
    visible: np.ndarray  # bool [SIDE SIDE]

    @property
    def covered(self) -> float:
        return 1 - float(self.visible.sum() / self.full.sum())


def draw_dataset(out: Path, *, train: int, val: int, seed: int, keypoints: bool = True) -> None:
    """Writes `train.json`, `val.json` and `images/*.png` to `out`. Image i is the same for any number of images.

    Args:
        out: folder, made if it does not exist. If it holds the same data set already, nothing is done.
        train, val: numbers of images. No two images share a seed, in a split or between splits.
        seed: of everything.
        keypoints: annotate the keypoints of the figures, too.

    Besides COCO's fields every annotation has `covered`: the fraction of the object, 0..1, that others hide.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        info = {"description": "maskrcnn drawn shapes", "version": VERSION}
        info |= {"seed": seed, "images": count, "keypoints": keypoints}
        if _already_there(out / f"{name}.json", info):
            continue
        images, annotations = [], []
        for i in range(count):
            pixels, objects = draw_scene(np.random.default_rng([seed, split, i]))
            file_name = f"{name}-{i + 1:05}.png"
            images.append({"id": i + 1, "file_name": file_name, "height": SIDE, "width": SIDE})
            quickly: Any = {"compress_level": 1, "compress_type": 3}  # run lengths
            Image.fromarray(pixels).save(out / "images" / file_name, **quickly)
            for thing in objects:
                annotations.append(_annotation(thing, len(annotations) + 1, i + 1, keypoints))
        content = {"info": info, "images": images, "annotations": annotations, "categories": _categories(keypoints)}
        with replacing(out / f"{name}.json") as temporary:  # last: a json that exists is complete
            temporary.write_text(json.dumps(content, separators=(",", ":")))


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[_Object]]:
    """One image, uint8 [SIDE SIDE 3], and its objects from back to front."""
    objects = _arrange(rng)
    palette = rng.uniform(30, 225, (COLOURS, 3))  # the ground has two of these colours and so has each object
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


# --- where objects are -----------------------------------------------------------------------------


def _arrange(rng: np.random.Generator) -> list[_Object]:
    """Objects from back to front. One that would hide too much of another, or be too small, is drawn again."""
    objects: list[_Object] = []
    if rng.random() < EMPTY_FRACTION:
        return objects
    for _ in range(int(rng.integers(2, 7))):
        for _attempt in range(12):
            if placed := _add(objects, _random_object(objects, rng)):
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
    """The objects with `new` in front of them, or None if that hides too much of one."""
    objects = [*(thing._replace(visible=thing.visible & ~new.full) for thing in objects), new]
    for thing in objects:
        if thing.covered > 1 - LEAST_VISIBLE or not SMALLEST <= max(_box(thing.visible)[2:]) <= LARGEST:
            return None
    return objects


def _box(mask: np.ndarray) -> list[float]:
    """x, y, width, height of a mask; zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0.0] * 4
    x, y = float(columns[0]), float(rows[0])
    return [x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y]


# --- how they look --------------------------------------------------------------------------------


def _texture(size: tuple[int, int], palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64 [*size 3]: two colours of the palette, mixed by stripes, checks, clouds or a gradient."""

    def steep(wave: np.ndarray) -> np.ndarray:
        return np.clip(wave * 0.75 + 0.5, 0, 1)  # -1..1 to 0..1, with narrow transitions

    y, x = np.arange(size[0])[:, None], np.arange(size[1])
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(5, 16), rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi
    match ("stripes", "checks", "clouds", "gradient")[rng.integers(4)]:
        case "stripes":
            mix = steep(np.sin(along / period + phase))
        case "checks":
            across = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi
            mix = steep(np.sin(along / period + phase) * np.sin(across / period))
        case "clouds":
            grain = rng.uniform(5, 20)  # pixels
            coarse = rng.uniform(0, 255, (round(size[0] / grain) + 1, round(size[1] / grain) + 1)).astype(np.uint8)
            mix = np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)) / 255
        case _:
            mix = np.sin(along / rng.uniform(90, 300) + phase) / 2 + 0.5
    first, second = palette[rng.choice(len(palette), 2, replace=False)]
    second = first + rng.uniform(0.2, 0.6) * (second - first)
    return first + mix[..., None] * (second - first)


def _paint(pixels: np.ndarray, shape: Shape, palette: np.ndarray, rng: np.random.Generator) -> None:
    """Paints a shape in front, in place: its shadow, its texture, light from the upper left and a dark contour."""
    box = shape.box()
    x1, y1 = int(box[0]) - _HALO, int(box[1]) - _HALO  # of the part that changes, which may reach beyond the image
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
    """A binomial filter of 5 x 5 pixels. `field` must be 0 along its border."""
    for axis in (0, 1):
        near = np.roll(field, 1, axis) + np.roll(field, -1, axis)
        far = np.roll(field, 2, axis) + np.roll(field, -2, axis)
        field = (6 * field + 4 * near + far) / 16
    return field


# --- the shapes of the classes -------------------------------------------------------------------


def shape_of(label: int, centre: tuple[float, float], size: float, rng: np.random.Generator) -> Shape:
    """A shape of the class in a random pose: `size` is the longer side of its box, `centre` the middle of it."""
    turn = rng.uniform(0, 2 * np.pi)
    parts: list[np.ndarray]
    holes: list[np.ndarray] = []
    keypoints = None
    match CLASSES[label]:
        case "disc":
            parts = [_ellipse(1.0, rng.uniform(0.75, 1.0))]
        case "box":
            aspect = rng.uniform(0.55, 1.0)
            parts = [np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]])]
        case "triangle":
            angles = np.array([0.0, 1.0, 2.0]) * 2 * np.pi / 3 + rng.uniform(-0.25, 0.25, 3)
            parts = [np.stack([np.cos(angles), np.sin(angles)], axis=1)]
        case "star":
            angles = np.arange(10) * np.pi / 5
            radii = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.5, 0.6))
            parts = [np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]]
        case "ring":
            aspect, hole = rng.uniform(0.8, 1.0), rng.uniform(0.4, 0.5)
            parts, holes = [_ellipse(1.0, aspect)], [_ellipse(hole, hole * aspect)]
        case _:
            parts, keypoints = _figure(rng)
            turn = rng.normal(0, 0.25)  # upright: left and right must differ
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned = np.concatenate([part @ rotation for part in parts])
    low, extent = turned.min(axis=0), np.ptp(turned, axis=0)
    scale, shift = size / extent.max(), low + extent / 2

    def place(points: np.ndarray) -> np.ndarray:
        # Hundredths of a pixel: what is annotated is what is drawn, and the json stays short.
        return np.round((points @ rotation - shift) * scale + np.array(centre), 2)

    placed = None if keypoints is None else place(keypoints)
    return Shape([place(part) for part in parts], [place(hole) for hole in holes], placed)


def _ellipse(a: float, b: float, sides: int = 32) -> np.ndarray:
    angles = np.arange(sides) * 2 * np.pi / sides
    return np.stack([a * np.cos(angles), b * np.sin(angles)], axis=1)


def _figure(rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """A figure that faces the viewer, so its left hand is on the right. y points down, the height is about 2."""
    at = {"head": np.array([rng.normal(0, 0.03), -0.78])}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        at[f"{side}_shoulder"] = np.array([sign * 0.27, -0.42])
        at[f"{side}_hip"] = np.array([sign * 0.19, 0.15])
        upper = rng.uniform(-0.5, 1.3)  # from hanging down, 0 radians, outwards
        lower = upper + rng.uniform(-0.2, 1.4)
        thigh = rng.uniform(-0.05, 0.55)
        shin = thigh + rng.uniform(-0.5, 0.2)
        for (start, end, length, _), angle in zip(_LIMBS, (upper, lower, thigh, shin), strict=True):
            at[f"{side}_{end}"] = at[f"{side}_{start}"] + length * np.array([sign * np.sin(angle), np.cos(angle)])
    torso = [at["left_shoulder"], at["right_shoulder"], at["right_hip"], at["left_hip"]]
    middle = np.mean(torso, axis=0)
    parts = [middle + (np.array(torso) - middle) * 1.25, at["head"] + _ellipse(0.26, 0.28, 20)]
    for side in ("left", "right"):
        parts += [_capsule(at[f"{side}_{start}"], at[f"{side}_{end}"], width) for start, end, _, width in _LIMBS]
    return parts, np.array([at[name] for name in KEYPOINTS])


def _capsule(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """A thick line with round ends."""
    direction = np.arctan2(*(end - start)[::-1])
    half = np.linspace(-np.pi / 2, np.pi / 2, 6)
    angles = np.concatenate([direction + half, direction + np.pi + half])
    return np.repeat([end, start], 6, axis=0) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _inside_polygon(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[slice, slice, np.ndarray]:
    """Rows and columns that the polygon's box spans, and which of their points are inside.

    The even-odd rule: a point is inside if an odd number of edges cross its row to the right of it.
    """
    ends = np.roll(polygon, -1, axis=0)
    (left, top), (right, bottom) = polygon.min(axis=0), polygon.max(axis=0)
    columns = slice(*np.searchsorted(x, [left, right]).tolist())
    rows = slice(*np.searchsorted(y, [top, bottom]).tolist())
    x, y = x[columns], y[rows]
    mask = np.zeros((len(y), len(x)), dtype=bool)
    firsts = np.searchsorted(y, np.minimum(polygon[:, 1], ends[:, 1])).tolist()
    lasts = np.searchsorted(y, np.maximum(polygon[:, 1], ends[:, 1])).tolist()
    for (x1, y1), (x2, y2), first, last in zip(polygon.tolist(), ends.tolist(), firsts, lasts, strict=True):
        if first < last:
            crossing = x1 + (y[first:last] - y1) * ((x2 - x1) / (y2 - y1))
            mask[first:last] ^= x < crossing[:, None]
    return rows, columns, mask


# --- the annotations ------------------------------------------------------------------------------


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
    """The outline if nothing of it is covered, a hole or outside the image; else the visible pixels as RLE."""
    x1, y1, x2, y2 = thing.shape.box()
    if thing.covered == 0 and min(x1, y1) >= 0 and max(x2, y2) <= SIDE and not thing.shape.holes:
        return [part.ravel().tolist() for part in thing.shape.parts]
    counts = counts_from_bitmap(thing.visible)
    compressed = counts[0] % 2 == 1  # COCO allows both forms, so both occur here
    return {"size": [SIDE, SIDE], "counts": string_from_counts(counts).decode() if compressed else counts.tolist()}


def _keypoints(thing: _Object, keypoints: np.ndarray) -> dict[str, Any]:
    """COCO's triples: v is 2 if the keypoint can be seen, 1 if something covers it, 0 outside the image.

    A keypoint in the middle of pixel i is written as i, as COCO does; for outlines and boxes the middle is i + 0.5.
    """
    triples: list[float] = []
    for x, y in keypoints.tolist():
        if not (0 <= x < SIDE and 0 <= y < SIDE):
            triples += [0, 0, 0]
        else:
            triples += [round(x - 0.5, 2), round(y - 0.5, 2), 2 if thing.visible[int(y), int(x)] else 1]
    return {"keypoints": triples, "num_keypoints": sum(v > 0 for v in triples[2::3])}
