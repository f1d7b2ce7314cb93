"""Images and objects move together: what the mask says is what the image shows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.config import (
    AugmentConfig,
    BoxArithmetic,
    InputConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    ModelConfig,
)  # fmt: skip
from maskrcnn.data.augment import MASK_SIDE, NO_AUGMENTATION, augment, draw_geometry, turned_hue
from maskrcnn.data.dataset import Record

KEEP = InputConfig(min_size=0, max_size=2000)
EVERYTHING = AugmentConfig(
    scale=(0.6, 1.7), crop=64, horizontal_flip=0.5, vertical_flip=0.5, rotate90=True, min_visible=0.0
)


def learning(rule=KEEP, *, target: Any = "hard", shift=0.0, inclusive=False):
    """A model that learns objects in this form."""
    return ModelConfig(
        input=rule,
        box_arithmetic=BoxArithmetic(inclusive=inclusive),
        mask_head=MaskHeadConfig(target=target),
        keypoint_head=KeypointHeadConfig(shift=shift),
    )


MODEL = learning()


def rectangle(x1, y1, x2, y2):
    return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)]


def box_of(segmentation):
    points = np.concatenate(segmentation)
    return [*points.min(axis=0), *points.max(axis=0)]


def record_of(segmentations, size, *, boxes=None, ignore=None, keypoints=None):
    n = len(segmentations)
    boxes = [box_of(segmentation) for segmentation in segmentations] if boxes is None else boxes
    return Record(
        image_id=7,
        path=Path("image.png"),
        size=size,
        boxes=np.array(boxes, dtype=np.float32).reshape(n, 4),
        labels=np.arange(n, dtype=np.int64),
        ignore=np.zeros(n, dtype=bool) if ignore is None else np.array(ignore),
        keypoints=keypoints,
        annotation_ids=np.arange(n, dtype=np.int64),
        segmentations=segmentations,
        areas=np.ones(n),
    )


def blank(size):
    return np.zeros((*size, 3), dtype=np.uint8)


def rle_of(bitmap):
    flat = bitmap.T.reshape(-1)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    bounds = np.concatenate([[0], changes, [flat.size]])
    return np.diff(bounds).astype(np.uint32), bitmap.shape


def seen(sample, i):
    """The image that mask i and its frame describe, pixel by pixel, and pixels too near an edge to be sure of."""
    h, w = sample.image.shape[:2]
    x1, y1, x2, y2 = sample.frames[i].astype(np.float64)
    columns = (np.arange(w) + 0.5 - x1) / (x2 - x1) * MASK_SIDE
    rows = (np.arange(h) + 0.5 - y1) / (y2 - y1) * MASK_SIDE
    inside = ((columns >= 0) & (columns < MASK_SIDE))[None] & ((rows >= 0) & (rows < MASK_SIDE))[:, None]
    cells = sample.masks[i][rows.clip(0, MASK_SIDE - 1).astype(int)][:, columns.clip(0, MASK_SIDE - 1).astype(int)]
    return inside & cells


def l_shape():
    """An L that no flip or turn maps onto itself, as bitmap and as outline."""
    bitmap = np.zeros((90, 110), dtype=bool)
    bitmap[20:70, 30:45] = True
    bitmap[58:70, 30:80] = True
    outline = np.array([[30, 20], [45, 20], [45, 58], [80, 58], [80, 70], [30, 70]], dtype=np.float64)
    return bitmap, [outline]


@pytest.mark.parametrize("kind", ["polygon", "rle"])
@pytest.mark.parametrize("kernel", ["pillow", "float", "opencv"])
def test_mask_and_box_say_what_the_image_shows(kind, kernel):
    bitmap, outline = l_shape()
    image = np.where(bitmap[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    segmentation = outline if kind == "polygon" else rle_of(bitmap)
    record = record_of([segmentation], bitmap.shape, boxes=[[30, 20, 80, 70]])
    rule = replace(KEEP, resize=kernel)
    cut, turned = 0, set()
    for seed in range(60):
        sample = augment(image, record, np.random.default_rng(seed), EVERYTHING, learning(rule))
        geometry = draw_geometry(np.random.default_rng(seed), record.size, EVERYTHING, rule)
        assert sample.image.shape[:2] == geometry.size
        turned.add((geometry.mirror_x, geometry.mirror_y, geometry.quarter_turns))
        shown = sample.image[..., 0] > 127
        if not len(sample.boxes):
            assert shown.sum() <= shown.shape[0] + shown.shape[1]
            continue
        described = seen(sample, 0)
        wrong = (described != shown).sum()
        assert wrong <= 0.06 * shown.sum() + 12, (seed, wrong, shown.sum())
        ys, xs = np.nonzero(shown)
        assert np.abs(sample.boxes[0] - [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).max() <= 1.5
        cut += described.sum() < 0.9 * bitmap.sum() * geometry.scales[0] * geometry.scales[1]
    assert cut > 10
    assert len(turned) > 10


def test_nothing_changes_without_augmentation(rng):
    image = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    bitmap, outline = l_shape()
    sample = augment(image, record_of([outline], bitmap.shape), rng, NO_AUGMENTATION, MODEL)
    assert (sample.image == image).all()
    assert sample.scales == (1.0, 1.0)
    assert sample.boxes.tolist() == [[30, 20, 80, 70]]
    assert sample.frames.tolist() == [[30, 20, 80, 70]]
    assert abs(sample.masks.mean() - bitmap.sum() / 2500) < 0.01


def test_whole_objects_keep_their_exact_box():
    record = record_of([rectangle(30.3, 30.7, 36.1, 39.9)], (70, 70))
    config = AugmentConfig(crop=64, horizontal_flip=1.0)
    sample = augment(blank(record.size), record, np.random.default_rng(1), config, MODEL)
    _, x1, _, x2 = draw_geometry(np.random.default_rng(1), record.size, config, KEEP).window
    expected = [x2 - 36.1, x2 - 30.3]
    assert x1 > 0
    assert sample.boxes[0, [0, 2]] == pytest.approx(expected, abs=1e-5)
    assert sample.frames[0, 0] > sample.frames[0, 2]  # mirrored frame, same bits
    assert sample.masks.all()


def cropped(record, config, seed=0, **options):
    """The sample, and the window of the crop."""
    geometry = draw_geometry(np.random.default_rng(seed), record.size, config, KEEP)
    sample = augment(blank(record.size), record, np.random.default_rng(seed), config, MODEL, **options)
    return sample, geometry.window


def test_what_a_crop_leaves_of_objects():
    config = AugmentConfig(crop=50, horizontal_flip=0.0, min_visible=0.3)
    y1, x1, _, _ = draw_geometry(np.random.default_rng(0), (200, 200), config, KEEP).window
    objects = [
        rectangle(x1 + 10, y1 + 10, x1 + 20, y1 + 20),  # inside
        rectangle(x1 - 10, y1 + 10, x1 + 10, y1 + 20),  # half
        rectangle(x1 - 32, y1 + 10, x1 + 8, y1 + 20),  # a fifth: to be ignored
        rectangle(x1 - 30, y1 + 10, x1 + 0.5, y1 + 20),  # half a pixel: gone
        rectangle(x1 - 30, y1 + 10, x1 - 5, y1 + 20),  # outside
    ]
    sample, _ = cropped(record_of(objects, (200, 200)), config)
    assert sample.labels.tolist() == [0, 1, 2]
    assert sample.ignore.tolist() == [False, False, True]
    assert sample.boxes == pytest.approx(np.array([[10, 10, 20, 20], [0, 10, 10, 20], [0, 10, 8, 20]]), abs=1e-4)
    assert sample.frames == pytest.approx(np.array([[10, 10, 20, 20], [-10, 10, 10, 20], [-32, 10, 8, 20]]), abs=1e-4)


def test_an_object_of_which_only_the_empty_part_of_its_box_is_in_view_is_gone():
    config = AugmentConfig(crop=50, horizontal_flip=0.0, min_visible=0.0)
    y1, x1, _, _ = draw_geometry(np.random.default_rng(0), (200, 200), config, KEEP).window
    corner = [np.array([[x1 - 40, y1 - 40], [x1 + 30, y1 - 40], [x1 - 40, y1 + 30]], dtype=np.float64)]  # below: empty
    sample, _ = cropped(record_of([corner], (200, 200)), config)
    assert len(sample.boxes) == 0
    without, _ = cropped(record_of([corner], (200, 200)), config, masks=False)
    assert len(without.boxes) == 1  # the box alone cannot know
    assert without.masks is None
    assert without.frames is None


def test_the_box_of_a_cut_object_is_tight_to_what_is_left():
    config = AugmentConfig(crop=50, horizontal_flip=0.0)
    y1, x1, _, _ = draw_geometry(np.random.default_rng(0), (200, 200), config, KEEP).window
    triangle = [np.array([[x1 - 20, y1], [x1 + 20, y1], [x1 - 20, y1 + 40]], dtype=np.float64)]
    sample, _ = cropped(record_of([triangle], (200, 200)), config)
    assert sample.boxes[0] == pytest.approx([0, 0, 20, 20], abs=41 / MASK_SIDE)  # within a cell


def test_box_only_objects_and_crowds_have_no_mask():
    record = record_of(
        [None, rectangle(30, 30, 60, 60), rectangle(5, 5, 9, 9)],
        (80, 80),
        boxes=[[10, 10, 20, 20], [30, 30, 60, 60], [5, 5, 9, 9]],
        ignore=[False, True, False],
    )
    sample = augment(blank(record.size), record, np.random.default_rng(0), NO_AUGMENTATION, MODEL)
    assert sample.masks.any(axis=(1, 2)).tolist() == [False, False, True]
    assert sample.ignore.tolist() == [False, True, False]
    assert len(sample.boxes) == 3


def test_an_image_without_objects_is_one():
    record = record_of([], (80, 60))
    sample = augment(blank(record.size), record, np.random.default_rng(0), EVERYTHING, MODEL)
    assert sample.boxes.shape == (0, 4)
    assert sample.masks.shape == (0, MASK_SIDE, MASK_SIDE)


def test_keypoints_follow_the_image():
    image = blank((80, 100))
    spots = np.array([[20, 30], [70, 50]])
    for x, y in spots:
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    keypoints = np.array([[[20, 30, 2], [70, 50, 1], [0, 0, 0]]], dtype=np.float32)
    record = record_of([rectangle(10, 10, 90, 70)], (80, 100), keypoints=keypoints)
    config = replace(EVERYTHING, scale=(1.0, 2.0))
    labelled = 0
    for seed in range(30):
        sample = augment(image, record, np.random.default_rng(seed), config, learning(shift=0.5))
        if sample.keypoints is None or not len(sample.keypoints):
            continue
        assert sample.keypoints[0, 2].tolist() == [0, 0, 0]
        for keypoint, v in zip(sample.keypoints[0, :2], (2, 1), strict=True):
            assert keypoint[2] in (0, v)
            if keypoint[2]:
                labelled += 1
                x, y = np.minimum(keypoint[:2], np.array(sample.image.shape[1::-1]) - 1).astype(int)
                assert sample.image[y, x, 0] > 100
            else:
                assert keypoint.tolist() == [0, 0, 0]
    assert labelled > 15


@pytest.mark.parametrize(
    ("across", "down", "expected"), [(1.0, 0.0, [[80, 30, 1], [90, 20, 2]]), (1.0, 1.0, [[90, 60, 2], [80, 50, 1]])]
)
def test_a_mirror_exchanges_left_and_right_and_two_do_not(across, down, expected):
    keypoints = np.array([[[10, 20, 2], [20, 30, 1]]], dtype=np.float32)
    record = record_of([rectangle(5, 5, 90, 70)], (80, 100), keypoints=keypoints)
    config = AugmentConfig(horizontal_flip=across, vertical_flip=down)
    sample = augment(blank(record.size), record, np.random.default_rng(0), config, MODEL, flip_pairs=[(0, 1)])
    assert sample.keypoints[0].tolist() == expected


@pytest.mark.parametrize(("shift", "inclusive", "expected"), [(0.5, False, 89.5), (0.0, False, 90), (0.0, True, 89)])
def test_a_mirrored_keypoint_is_where_its_framework_puts_it(shift, inclusive, expected):
    """Pixel 10 of 100 becomes pixel 89; its middle is 89.5 (Detectron2), its index 89 (Detectron). torchvision counts
    from the other end.
    """
    record = record_of([rectangle(5, 5, 90, 70)], (80, 100), keypoints=np.array([[[10, 20, 2]]], dtype=np.float32))
    config = AugmentConfig(horizontal_flip=1.0)
    for scale in (1, 2):
        rule = replace(KEEP, zoom=float(scale))
        sample = augment(
            blank(record.size),
            record,
            np.random.default_rng(0),
            config,
            learning(rule, shift=shift, inclusive=inclusive),
        )
        assert sample.keypoints[0].tolist() == [[scale * expected, scale * (20 + shift), 2]]
    config = AugmentConfig(horizontal_flip=0.0, rotate90=True)
    model = learning(shift=shift, inclusive=inclusive)
    places = {
        tuple(augment(blank(record.size), record, np.random.default_rng(seed), config, model).keypoints[0, 0, :2])
        for seed in range(30)
    }
    x, y, across, down = 10 + shift, 20 + shift, expected, expected - 30  # of 80 lines and 100 columns
    assert places == {(x, y), (y, across), (across, down), (down, x)}


def test_keypoints_outside_the_crop_are_unlabelled():
    config = AugmentConfig(crop=50, horizontal_flip=0.0)
    y1, x1, _, _ = draw_geometry(np.random.default_rng(0), (200, 200), config, KEEP).window
    keypoints = np.array([[[x1 + 5, y1 + 5, 2], [x1 - 5, y1 + 5, 2]]], dtype=np.float32)
    sample, _ = cropped(record_of([rectangle(x1 - 10, y1, x1 + 10, y1 + 20)], (200, 200), keypoints=keypoints), config)
    assert sample.keypoints[0].tolist() == [[5, 5, 2], [0, 0, 0]]


def test_the_same_generator_gives_the_same_sample_and_arguments_stay(rng):
    image = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    bitmap, outline = l_shape()
    record = record_of([outline], bitmap.shape)
    before = image.copy(), record.boxes.copy(), record.ignore.copy()
    config = replace(EVERYTHING, brightness=0.3, contrast=0.3, saturation=0.3)
    first, again, other = (augment(image, record, np.random.default_rng(s), config, MODEL) for s in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.boxes.tobytes() == again.boxes.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    for now, then in zip((image, record.boxes, record.ignore), before, strict=True):
        assert (now == then).all()


def test_colour_leaves_geometry_alone_and_stays_in_range(rng):
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    record = record_of([rectangle(5, 5, 20, 20)], (40, 40))
    plain = augment(image, record, np.random.default_rng(3), EVERYTHING, MODEL)
    colourful = replace(EVERYTHING, brightness=0.9, contrast=0.9, saturation=0.9)
    for rule in (KEEP, replace(KEEP, resize="float")):
        sample = augment(image, record, np.random.default_rng(3), colourful, learning(rule))
        assert (sample.boxes == plain.boxes).all()
        assert sample.image.dtype == (np.uint8 if rule is KEEP else np.float32)
        assert sample.image.min() >= 0
        assert sample.image.max() <= 255
    assert (sample.image != plain.image).any()


def test_each_colour_change_does_what_its_name_says(rng):
    image = rng.integers(60, 120, (40, 40, 3), dtype=np.uint8)
    record = record_of([], (40, 40))

    def spread(strength):
        config = AugmentConfig(horizontal_flip=0.0, **strength)
        samples = [augment(image, record, np.random.default_rng(s), config, MODEL).image for s in range(20)]
        means = np.array([s.mean() for s in samples])
        contrasts = np.array([s.mean(axis=2).std() for s in samples])
        colours = np.array([s.std(axis=2).mean() for s in samples])
        return means.std() / image.mean(), contrasts.std() / image.std(), colours.std() / image.std()

    mean, _, _ = spread({"brightness": 0.4})
    assert 0.15 < mean < 0.35  # uniform in +-0.4 has 0.23
    mean, contrast, _ = spread({"contrast": 0.4})
    assert mean < 0.01
    assert contrast > 0.08
    mean, contrast, colour = spread({"saturation": 0.4})
    assert mean < 0.01
    assert colour > 0.1


def test_a_grey_image_and_five_channels_pass(rng):
    config = replace(EVERYTHING, brightness=0.2, contrast=0.2, saturation=0.2)
    for channels in (1, 5):
        image = rng.integers(0, 256, (50, 40, channels), dtype=np.uint8)
        assert augment(image, record_of([], (50, 40)), rng, config, MODEL).image.shape[2] == channels


def test_scale_is_log_uniform_and_an_image_without_crop_stays_within_max_size():
    config = AugmentConfig(scale=(0.5, 2.0))
    drawn = [
        draw_geometry(np.random.default_rng(s), (100, 150), config, InputConfig(min_size=0, max_size=240))
        for s in range(400)
    ]
    scales = np.array([geometry.scales[0] for geometry in drawn])
    assert max(max(geometry.resized) for geometry in drawn) == 240
    assert 0.4 < (scales < 1).mean() < 0.6
    assert scales.min() == pytest.approx(0.5, abs=0.02)


def test_every_min_size_is_chosen():
    config = AugmentConfig(min_sizes=(64, 80, 96))
    sizes = {draw_geometry(np.random.default_rng(s), (100, 150), config, InputConfig()).resized for s in range(40)}
    assert sizes == {(64, 96), (80, 120), (96, 144)}


def test_crops_lie_everywhere():
    config = AugmentConfig(crop=50)
    windows = [draw_geometry(np.random.default_rng(s), (52, 51), config, KEEP).window for s in range(100)]
    assert {window[:2] for window in windows} == {(y, x) for y in (0, 1, 2) for x in (0, 1)}
    assert draw_geometry(np.random.default_rng(0), (30, 80), config, KEEP).size == (30, 50)


@pytest.mark.parametrize(("law", "mean"), [("uniform", 1.05), ("log-uniform", 1.9 / np.log(20))])
def test_large_scale_jitter_follows_its_law(law, mean):
    config = AugmentConfig(scale=(0.1, 2.0), scale_law=law, crop=64)
    drawn = [draw_geometry(np.random.default_rng(seed), (1000, 1000), config, KEEP).scales[0] for seed in range(3000)]
    assert 0.1 <= min(drawn) < 0.15
    assert 1.9 < max(drawn) <= 2.0
    assert np.mean(drawn) == pytest.approx(mean, abs=0.04)


def test_what_jitter_shrinks_below_a_pixel_is_ignored():
    record = record_of([rectangle(10, 10, 16, 30), rectangle(40, 40, 60, 70)], (90, 110))
    config = AugmentConfig(scale=(0.1, 0.1), crop=64, horizontal_flip=0.0)
    sample = augment(blank(record.size), record, np.random.default_rng(0), config, MODEL)
    assert sample.ignore.tolist() == [True, False]


def test_a_crop_of_a_large_image_keeps_its_scale():
    size = (3000, 9000)
    config = AugmentConfig(crop=64)
    assert draw_geometry(np.random.default_rng(0), size, config, KEEP).scales == (1.0, 1.0)
    twice = replace(KEEP, zoom=2.0)
    assert draw_geometry(np.random.default_rng(0), size, config, twice).scales == (2.0, 2.0)
    assert draw_geometry(np.random.default_rng(0), size, NO_AUGMENTATION, KEEP).resized == (667, 2000)


def test_half_a_turn_of_the_hue_mirrors_colours_at_their_grey(rng):
    colours = rng.uniform(60, 190, (20, 3))
    grey = (colours @ [0.299, 0.587, 0.114])[:, None]
    assert colours @ turned_hue(0.5).T == pytest.approx(2 * grey - colours, abs=0.3)
    assert colours @ turned_hue(0.0).T == pytest.approx(colours, abs=1e-3)
    assert np.full((1, 3), 77.0) @ turned_hue(0.37).T == pytest.approx(np.full((1, 3), 77.0), abs=0.2)


def test_hue_changes_colours_and_keeps_their_luminance(rng):
    image = rng.integers(100, 150, (30, 40, 3), dtype=np.uint8)
    record = record_of([], (30, 40))
    sample = augment(image, record, rng, AugmentConfig(hue=0.5, horizontal_flip=0.0), MODEL)
    assert np.abs(sample.image.astype(int) - image).max() > 10
    before, after = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in (image, sample.image))
    assert np.abs(before - after).max() < 1.5
