"""One page that shows a data set as training will see it: `report.html`, a single file that needs no network.

Images with their objects before and after augmentation, the classes, the objects' sizes beside the anchors, and every
problem with a thumbnail.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..config import Config, InputConfig, ModelConfig
from ..data.augment import NO_AUGMENTATION, Sample
from ..data.batch import BatchMaker
from ..data.check import advice, resized_sizes
from ..data.dataset import NO_MASK, Dataset
from ..data.problems import Problem
from ..errors import DataError
from ..ops.contour import Outline, trace
from ..visualize import draw
from .page import framed, page_path, table, tiles, write_page

SHOWN = 12  # images
_LONGEST, _THUMBNAIL = 480, 240  # pixels
_LISTED = 12  # problems of one reason that get a thumbnail
_AROUND = 32  # pixels of the image at least that are shown around an object with a problem
_CLASSES = 200  # that are listed
_STYLE = """
.images.small { grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p.under + .images, p.under + svg { margin-top: .75rem; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg .bar { fill: var(--bar); }
svg .anchor { stroke: var(--mark); stroke-width: 2; } svg text.anchor { fill: var(--mark); stroke: none; }
svg .base { stroke: var(--line); } ul { padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
"""


class Part(NamedTuple):
    """A data set of the report."""

    name: str  # train or val
    data: Dataset
    unreadable: Sequence[Problem] = ()


def write_data_report(out: Path, parts: Sequence[Part], config: Config, choices: Sequence[str] = ()) -> Path:
    """Writes the page to `out`, a file or a folder that gets `report.html`, and returns its path.

    Args:
        parts: the training images first.
        config: the settings that training would have; the images are augmented by them and by its seed.
        choices: lines on how these settings were chosen.
    """
    train = parts[0].data
    body = [
        f"<h1>{escape(str(train.source))}</h1>",
        f"<p class=under>as training would see it with {escape(config.model.name)}</p>",
        tiles(_numbers(parts)),
        *(f"<p class=note>{escape(sentence)}</p>" for sentence in advice(train, config.model)),
        _grid(train, config),
        _classes(parts),
        _sizes(train, config.model),
        _settings(choices),
        *(_problems(part, config.model) for part in parts),
    ]
    return write_page(page_path(out), f"{train.source.name}: data set", body, _STYLE)


def _numbers(parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    for name, data, _ in parts:
        yield f"images to {'train on' if name == 'train' else 'evaluate on'}", f"{len(data):,}"
        yield f"objects in {name}", f"{len(data.object_rows()):,}"
    data = parts[0].data
    kinds = data.objects.kinds[data.object_rows()]
    yield "classes", f"{len(data.categories):,}"
    if without := int((kinds == NO_MASK).sum()):
        yield "objects without a mask", f"{without:,}"
    if crowds := int(data.objects.ignore[data.object_rows()].sum()):
        yield "crowds, to be ignored", f"{crowds:,}"
    yield "problems", f"{sum(len(part.data.report.problems) + len(part.unreadable) for part in parts):,}"


# --- images ----------------------------------------------------------------------------------------------------------


def choose_images(data: Dataset, count: int = SHOWN) -> list[int]:
    """Indices of images to show: one for each class, rare classes first, then evenly spread; ascending."""
    counts = data.annotation_counts
    labels, image_of = data.objects.labels[data.object_rows()], np.repeat(np.arange(len(data)), counts)
    chosen: list[int] = []
    by_rarity = np.argsort(np.bincount(labels, minlength=len(data.categories)), kind="stable")
    for label in by_rarity.tolist():
        holders = image_of[labels == label]
        if len(holders) and len(chosen) < count and not set(holders.tolist()) & set(chosen):
            chosen.append(int(holders[0]))
    rest = [i for i in np.argsort(counts == 0, kind="stable").tolist() if i not in chosen]
    filled = rest[: int((counts > 0).sum()) - len(chosen)] or rest
    missing = min(count - len(chosen), len(rest))
    if missing > len(filled):
        filled = rest
    chosen += [filled[i] for i in np.linspace(0, len(filled) - 1, missing).round().astype(int)] if missing else []
    return sorted(set(chosen))


def _grid(data: Dataset, config: Config) -> str:
    """Each image resized for the model, and as a training step may get it."""
    policy = "exact" if config.model.input.canvas == "exact" else "buckets"
    makers = [
        BatchMaker(
            data, config.model, settings, config.train.seed, policy, config.model.mask_head.enabled, replace=False
        )
        for settings in (NO_AUGMENTATION, config.train.augment)
    ]
    cards = []
    for i in choose_images(data):
        try:
            before, after = (maker.sample(i, 0) for maker in makers)
        except DataError as error:
            cards.append(f"<div class=card><figcaption>{escape(str(error))}</figcaption></div>")
            continue
        shown = (
            framed(_drawn(before, data), f"{data.name(i)}: {_counted(before)}", _LONGEST),
            framed(_drawn(after, data), f"augmented: {_counted(after)}", _LONGEST),
        )
        cards.append(f"<div class='card pair'>{''.join(shown)}</div>")
    under = "Left: resized as for prediction. Right: as a training step may see it; another time it is different."
    return f"<h2>Images</h2><p class=under>{under}</p><div class='images pairs'>{''.join(cards)}</div>"


def _counted(sample: Sample) -> str:
    count, ignored = len(sample.labels), int(sample.ignore.sum())
    return f"{count} object{'s' * (count != 1)}" + (f", {ignored} of them ignored (grey)" if ignored else "")


def _drawn(sample: Sample, data: Dataset) -> Image.Image:
    """The objects of a sample on its image; ignore regions are grey and crossed out."""
    learned = np.flatnonzero(~sample.ignore)
    categories = [data.categories[label] for label in sample.labels[learned].tolist()]
    width = sample.image.shape[1]
    shown = draw(
        np.ascontiguousarray(sample.image.clip(0, 255).astype(np.uint8)),
        sample.boxes[learned],
        None,
        np.array([category.id for category in categories], dtype=np.int64),
        [category.name for category in categories],
        outlines=[outline_of(sample, i) for i in learned.tolist()],
        categories=data.categories,
    )
    pen, factor = ImageDraw.Draw(shown), shown.width / width
    for x1, y1, x2, y2 in (sample.boxes[sample.ignore] * factor).tolist():
        pen.rectangle((x1, y1, x2, y2), outline=(150, 150, 150), width=2)
        pen.line((x1, y1, x2, y2), fill=(150, 150, 150), width=2)
        pen.line((x1, y2, x2, y1), fill=(150, 150, 150), width=2)
    return shown


def outline_of(sample: Sample, i: int) -> Outline:
    """The outlines of object i in pixels of the sample's image; none if its mask is not known."""
    if sample.outlines is not None and sample.outlines[i]:
        return Outline(sample.outlines[i], [])
    if sample.masks is None or sample.frames is None or not sample.masks[i].any():
        return Outline([], [])
    bits, (x1, y1, x2, y2) = sample.masks[i], sample.frames[i].tolist()
    bits = bits[:, ::-1] if x1 > x2 else bits  # the frame of a mirrored mask is mirrored
    bits = bits[::-1] if y1 > y2 else bits
    box = np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])
    return trace(bits, box, (sample.image.shape[0], sample.image.shape[1]))


# --- tables and the histogram ----------------------------------------------------------------------------------------


def _classes(parts: Sequence[Part]) -> str:
    counts = [
        np.bincount(data.objects.labels[data.object_rows()], minlength=len(data.categories)) for _, data, _ in parts
    ]
    images = [_images_of_classes(data) for _, data, _ in parts]
    head = ["class", *(f"{what} in {name}" for name, _, _ in parts for what in ("objects", "images"))]
    rows = [
        [category.name, *(f"{n[label]:,}" for pair in zip(counts, images, strict=True) for n in pair)]
        for label, category in enumerate(parts[0].data.categories)
    ]
    rows.sort(key=lambda row: -int(row[1].replace(",", "")))
    more = f"<p class=under>and {len(rows) - _CLASSES} more</p>" if len(rows) > _CLASSES else ""
    return "<h2>Classes</h2>" + table(head, rows[:_CLASSES]) + more


def _images_of_classes(data: Dataset) -> np.ndarray:
    """int64 [K], images that hold objects of each class."""
    labels = data.objects.labels[data.object_rows()].astype(np.int64)
    pairs = np.unique(np.repeat(np.arange(len(data)), data.annotation_counts) * len(data.categories) + labels)
    return np.bincount(pairs % max(len(data.categories), 1), minlength=len(data.categories))


def _sizes(data: Dataset, model: ModelConfig) -> str:
    """A histogram with two bars an octave, and the anchors."""
    sizes = np.sqrt(resized_sizes(data, model).prod(axis=1))
    if not len(sizes):
        return ""
    anchors = sorted({size for level in model.anchors.sizes for size in level})
    low, high = (
        math.floor(2 * math.log2(max(min(sizes.min(), anchors[0]), 0.5))),
        math.ceil(2 * math.log2(max(sizes.max(), anchors[-1]))) + 1,
    )
    edges = 2.0 ** (np.arange(low, high + 1) / 2)
    counts = np.histogram(sizes.clip(edges[0], edges[-1]), edges)[0]
    width, height, foot, head = 900, 300, 40, 24
    step, tallest = (width - 40) / len(counts), height - foot - head
    pieces = [f"<line class=base x1=20 x2={width - 20} y1={height - foot} y2={height - foot}></line>"]
    for i, (count, edge) in enumerate(zip(counts.tolist(), edges.tolist(), strict=False)):
        bar = tallest * count / counts.max()
        x, y = 20 + i * step, height - foot - bar
        shown = f"<title>{edge:.0f} to {edges[i + 1]:.0f} pixels: {count:,} objects</title>"
        pieces.append(f"<rect class=bar x={x + 2:.1f} y={y:.1f} width={step - 4:.1f} height={bar:.1f}>{shown}</rect>")
        if (low + i) % 2 == 0:
            pieces.append(f"<text x={x:.1f} y={height - foot + 18} text-anchor=middle>{edge:g}</text>")
    for anchor in anchors:
        x = 20 + (2 * math.log2(anchor) - low) * step
        pieces.append(f"<line class=anchor x1={x:.1f} x2={x:.1f} y1={head} y2={height - foot}></line>")
        pieces.append(f"<text class=anchor x={x:.1f} y={head - 6} text-anchor=middle>{anchor:g}</text>")
    under = (
        "Objects by the square root of their box's area, in pixels as resized for the model; the lines are its anchors."
    )
    svg = f"<svg viewBox='0 0 {width} {height}' role=img aria-label='sizes of the objects'>{''.join(pieces)}</svg>"
    return f"<h2>Sizes of the objects</h2><p class=under>{under}</p>{svg}"


def _settings(choices: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape(line.strip())}</li>" for line in choices)
    return f"<h2>What training would choose</h2><ul>{lines}</ul>" if choices else ""


# --- problems --------------------------------------------------------------------------------------------------------


def _problems(part: Part, model: ModelConfig) -> str:
    """Every reason with its count, and the first problems of it with what they are about."""
    problems = [*part.data.report.problems, *part.unreadable]
    if not problems:
        return f"<h2>Problems in {part.name}</h2><p class=under>none</p>"
    rows = {part.data.stated_id(i): i for i in range(len(part.data))}
    pieces = [f"<h2>Problems in {part.name}: {len(problems):,}</h2>"]
    for (kind, reason), count in Counter((p.kind, p.reason) for p in problems).most_common():
        some = [problem for problem in problems if (problem.kind, problem.reason) == (kind, reason)][:_LISTED]
        what = "repaired" if kind == "repair" else f"{kind} left out"
        figures = "".join(_thumbnail(problem, part.data, rows, model) for problem in some)
        more = f"<p class=under>and {count - len(some):,} more</p>" if count > len(some) else ""
        pieces.append(f"<h3>{escape(reason)}: {count:,} ({what})</h3><div class='images small'>{figures}</div>{more}")
    return "".join(pieces)


def _thumbnail(problem: Problem, data: Dataset, rows: dict[int | str, int], model: ModelConfig) -> str:
    """The image of a problem, around its object if that is known; words alone if it cannot be shown."""
    ids = {"image": problem.image_id, "annotation": problem.annotation_id}
    words = [f"{what} {id}" for what, id in ids.items() if id is not None]
    caption = ", ".join([*words, *([problem.detail] if problem.detail else [])]) or problem.file
    row = None if problem.image_id is None else rows.get(problem.image_id)
    try:
        image = None if row is None else _around(data, row, problem.annotation_id, model.input)
    except DataError as error:
        image, caption = None, f"{caption}: {error}" if problem.kind != "image" else caption
    if image is None:
        return f"<figure><figcaption>{escape(caption)}</figcaption></figure>"
    return framed(image, caption, _THUMBNAIL)


def _around(data: Dataset, row: int, annotation_id: int | None, rule: InputConfig) -> Image.Image:
    """The image in `row`, or the part of it around an object, whose box is drawn."""
    record = data.record(row)
    found = np.flatnonzero(record.annotation_ids == annotation_id) if annotation_id is not None else []
    with record.open() as image:
        top, left, (bottom, right) = 0, 0, image.size
        if len(found):
            x1, y1, x2, y2 = record.boxes[found[0]].tolist()
            margin = max(x2 - x1, y2 - y1, _AROUND)
            left, top = max(math.floor(x1 - margin), 0), max(math.floor(y1 - margin), 0)
            right, bottom = min(math.ceil(x2 + margin), right), min(math.ceil(y2 + margin), bottom)
        pixels = image.read(channels=rule.channels, ranges=rule.range, box=(top, left, bottom, right))
    shown = draw(pixels, np.zeros((0, 4)), None, np.zeros(0, dtype=np.int64), [])
    if len(found):
        factor = shown.width / pixels.shape[1]
        x1, y1, x2, y2 = ((record.boxes[found[0]] - [left, top, left, top]) * factor).tolist()
        ImageDraw.Draw(shown).rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=(255, 90, 30), width=3)
    return shown
