"""The text of `maskrcnn check DATA`: what was read, what was dropped and why, and whether the objects' sizes fit the
model's anchors.
"""

from collections.abc import Iterator

import numpy as np

from ..config import ModelConfig
from ..errors import DataError
from .dataset import NO_MASK, POLYGONS, RLE, Dataset, match_categories
from .problems import Problem, problem_lines
from .usable import checked_headers, never_learned

LISTED = 10  # problems written out for each reason
_SECONDS = 5.0  # for the headers of images
_CATEGORIES_LISTED = 100
_QUANTILES = {"smallest": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "largest": 1.0}
_LOW_IOU = 0.5  # below it, even with the best anchor centred on it, an object is learned by the fallback rule alone


def check(dataset: Dataset, model: ModelConfig, *, verify: bool = False) -> str:
    """Plain text about a data set as `model` would see it.

    The headers of images are read for some seconds, a sample of them first. With `verify` every image is opened, which
    takes as long as reading them for an epoch. Images that cannot be read or have another size are listed.
    """
    lines = [f"{dataset.source}", *_images(dataset), *_objects(dataset), *_categories(dataset, model.mask_head.enabled)]
    lines += dataset.report.lines(LISTED)
    if verify:
        broken = unreadable_images(dataset, model.input.channels)
        lines += list(problem_lines("images that cannot be read", broken, LISTED)) or ["every image can be read"]
    else:
        count, broken = checked_headers(dataset, _SECONDS)
        title = f"images that cannot be read, of {count} whose headers were read; --verify reads all:"
        lines += problem_lines(title, broken, LISTED)
    return "\n".join([*lines, *_sizes(dataset, model)])


def renumbered(train: Dataset, val: Dataset) -> list[str]:
    """A line that lists the categories of `val` whose ids differ from those in `train`, with which they are matched by
    name; no line if there are none. Raises `DataError` if `train` does not have a category of `val`.
    """
    names = {category.id: category.name for category in val.categories}
    matched = {category.name: category.id for category in match_categories(train, val).categories}
    moved = [f"{name} {id} as {matched[name]}" for id, name in names.items() if matched[name] != id]
    return [f"categories of {val.source} are matched by name: {', '.join(moved)}"] if moved else []


def unreadable_images(dataset: Dataset, channels: int = 3) -> list[Problem]:
    """Opens every image as training would, and returns a problem for each that cannot be read or does not have its
    annotated size. Raises `DataError` at the first one if the data set was read strictly.
    """
    problems = []
    for i in range(len(dataset)):
        image_id = dataset.stated_id(i)
        try:
            with dataset.open(i) as image:
                for box in image.bands():
                    image.read(channels=channels, box=box)
        except DataError as error:
            if dataset.report.strict:
                raise DataError(f"{dataset.source}, image {image_id}: {error}") from error
            problems.append(Problem("image", dataset.report.file, image_id, None, "unreadable", str(error)))
    return problems


def resized_sizes(dataset: Dataset, model: ModelConfig) -> np.ndarray:
    """float64 [n 2], (height, width) of every object but crowds, in pixels after the model's resize without jitter."""
    rows, scales = dataset.object_rows(), np.repeat(resize_scales(dataset, model), dataset.annotation_counts)
    kept = ~dataset.objects.ignore[rows]
    boxes = dataset.objects.boxes[rows[kept]]
    return (boxes[:, [3, 2]] - boxes[:, [1, 0]]) * scales[kept, None]


def resize_scales(dataset: Dataset, model: ModelConfig) -> np.ndarray:
    """float64 [N], the factor by which the model resizes each image."""
    if model.input.min_size == 0:
        return np.full(len(dataset), model.input.zoom)
    sizes = dataset.sizes.astype(np.float64)
    return np.minimum(model.input.min_size / sizes.min(axis=1), model.input.max_size / sizes.max(axis=1))


def best_anchor_iou(sides: np.ndarray, model: ModelConfig) -> np.ndarray:
    """[n], the highest IoU of each object (height, width) with any of the model's anchors, centred on it."""
    areas = np.array([size for level in model.anchors.sizes for size in level])[:, None] ** 2
    ratios = np.array(model.anchors.ratios)[None, :]
    heights, widths = np.sqrt(areas * ratios).ravel(), np.sqrt(areas / ratios).ravel()
    common = np.minimum(sides[:, :1], heights) * np.minimum(sides[:, 1:], widths)
    union = (sides[:, :1] * sides[:, 1:]) + heights * widths - common
    return (common / union).max(axis=1, initial=0)


def _images(dataset: Dataset) -> Iterator[str]:
    report, counts = dataset.report, dataset.annotation_counts
    empty = int((counts == 0).sum())
    yield f"images       {len(dataset)} of {report.images_in_file} in the file, {empty} without objects"
    if not len(dataset):
        return
    sizes, often = np.unique(dataset.sizes, axis=0, return_counts=True)
    if len(sizes) <= 5:
        listed = (f"{h} x {w} ({n})" for (h, w), n in zip(sizes.tolist(), often.tolist(), strict=True))
        yield f"  height x width  {', '.join(listed)}"
    else:
        (low_h, low_w), (high_h, high_w) = sizes.min(axis=0), sizes.max(axis=0)
        yield f"  height {low_h} to {high_h}, width {low_w} to {high_w}, {len(sizes)} different sizes"


def _objects(dataset: Dataset) -> Iterator[str]:
    rows, report, counts = dataset.object_rows(), dataset.report, dataset.annotation_counts
    kinds = np.bincount(dataset.objects.kinds[rows], minlength=3)
    yield (
        f"objects      {len(rows)} of {report.annotations_in_file} in the file, "
        f"{int(dataset.objects.ignore[rows].sum())} of them crowds (regions to ignore)"
    )
    yield f"  masks      {kinds[POLYGONS]} polygons, {kinds[RLE]} run lengths, {kinds[NO_MASK]} boxes without a mask"
    if len(dataset):
        yield f"  an image   {int(np.median(counts))} in the median, {int(counts.max())} at most"
    if dataset.objects.keypoints is not None:
        labelled = int((dataset.objects.keypoints[rows, :, 2] > 0).any(axis=1).sum())
        yield f"  keypoints  {dataset.num_keypoints}, labelled on {labelled} objects"


def _categories(dataset: Dataset, masks: bool) -> Iterator[str]:
    labels = dataset.objects.labels[dataset.object_rows()]
    image_of = np.repeat(np.arange(len(dataset)), dataset.annotation_counts)
    objects = np.bincount(labels, minlength=len(dataset.categories))
    pairs = np.unique(np.stack([labels, image_of], axis=1), axis=0) if len(labels) else np.zeros((0, 2), np.int64)
    images = np.bincount(pairs[:, 0], minlength=len(dataset.categories))
    yield f"categories   {len(dataset.categories)}, {int((objects == 0).sum())} without objects"
    yield f"  {'id':>6} {'objects':>9} {'images':>8}  name"
    for label, category in enumerate(dataset.categories[:_CATEGORIES_LISTED]):
        yield f"  {category.id:>6} {objects[label]:>9} {images[label]:>8}  {category.name}"
    if len(dataset.categories) > _CATEGORIES_LISTED:
        yield f"  ... and {len(dataset.categories) - _CATEGORIES_LISTED} more"
    yield from (f"  note: {sentence}" for sentence in never_learned(dataset, masks=masks))


def _sizes(dataset: Dataset, model: ModelConfig) -> Iterator[str]:
    sides = resized_sizes(dataset, model)
    if not len(sides):
        return
    sizes = np.sqrt(sides.prod(axis=1))
    found = np.quantile(sizes, list(_QUANTILES.values()))
    values = (f"{name} {size:.0f}" for name, size in zip(_QUANTILES, found, strict=True))
    yield f"object sizes {', '.join(values)}   (square root of the box's area in pixels, resized for {model.name})"
    anchors = sorted({size for level in model.anchors.sizes for size in level})
    yield f"anchors      {', '.join(f'{size:g}' for size in anchors)}"
    yield from (f"  note: {sentence}" for sentence in advice(dataset, model))


def advice(dataset: Dataset, model: ModelConfig) -> list[str]:
    """Sentences about what in the model does not suit the data; none if everything does."""
    sides = resized_sizes(dataset, model)
    if not len(sides):
        return ["there are no objects to learn from"]
    sizes = np.sqrt(sides.prod(axis=1))
    anchors = sorted({size for level in model.anchors.sizes for size in level})
    sentences = []
    small, large = (sizes < anchors[0] / 2).mean(), (sizes > anchors[-1] * 2).mean()
    for share, what, end, quantile, remedy in (
        (small, "smaller than half the smallest", anchors[0], 0.05, "enlarge the images"),
        (large, "larger than twice the largest", anchors[-1], 0.95, "make the images smaller"),
    ):
        if share > 0.05:
            factor = 2.0 ** np.round(np.log2(np.quantile(sizes, quantile) / end))  # that anchor meets the quantile
            scaled = ",".join(f"[{','.join(f'{size * factor:g}' for size in level)}]" for level in model.anchors.sizes)
            sentences.append(
                f"{share:.0%} of the objects are {what} anchor ({end:g}); "
                f"try --set model.anchors.sizes=[{scaled}], or {remedy} (model.input.min_size)"
            )
    thin = float((best_anchor_iou(sides, model) < _LOW_IOU).mean())
    if thin > 0.25 and not sentences:
        sentences.append(
            f"{thin:.0%} of the objects have an IoU below {_LOW_IOU} with every anchor, although their size fits: they "
            "are long and thin; add ratios, such as --set model.anchors.ratios=[0.25,0.5,1.0,2.0,4.0]"
        )
    most = int(dataset.annotation_counts.max(initial=0))
    if most > model.box_head.max_detections:
        sentences.append(
            f"an image has up to {most} objects, but the model returns at most {model.box_head.max_detections}; "
            "train raises this limit by itself (model.box_head.max_detections)"
        )
    return sentences
