"""Bitmaps and outlines for the rules of other frameworks: what a canvas shows, however it was cut and turned."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from maskrcnn.config import AugmentConfig, InputConfig
from maskrcnn.data.augment import augment, draw_geometry
from maskrcnn.data.bitmaps import draw_bitmap, grown, nearest_pixels, windows
from maskrcnn.data.loader import TrainLoader
from tests.data.test_augment import EVERYTHING, KEEP, blank, l_shape, learning, record_of, rle_of
from tests.data.test_loader import write


def whole(bits, frame, size):
    """The canvas [h w] that a window describes."""
    canvas = np.zeros(size, bool)
    x, y = frame[:2].astype(int)
    part = bits[: size[0] - y, : size[1] - x]
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return canvas


def moved(bitmap, geometry, resample):
    """What becomes of a bitmap of the whole image, every step by itself."""
    resized = np.asarray(
        Image.fromarray(bitmap.astype(np.uint8)).resize(geometry.resized[::-1], Image.Resampling.NEAREST)
    )
    if resample == "torch":
        tensor = torch.from_numpy(bitmap.astype(np.float32))[None, None]
        resized = torch.nn.functional.interpolate(tensor, size=geometry.resized)[0, 0].numpy()
    y1, x1, y2, x2 = geometry.window
    shown = resized[y1:y2, x1:x2]
    shown = shown[:, ::-1] if geometry.mirror_x else shown
    shown = shown[::-1] if geometry.mirror_y else shown
    return np.rot90(shown, geometry.quarter_turns).astype(bool)


def test_bitmaps_go_where_the_image_goes() -> None:
    """An RLE under either rule: Pillow's nearest pixel if polygons are redrawn, torch's if all masks are bitmaps."""
    bitmap, _ = l_shape()
    record, seen = record_of([rle_of(bitmap)], bitmap.shape, boxes=[[30, 20, 80, 70]]), 0
    for seed in range(40):
        geometry = draw_geometry(np.random.default_rng(seed), record.size, EVERYTHING, KEEP)
        for rule, resample in (("polygon", "pillow"), ("soft", "torch")):
            sample = augment(blank(record.size), record, np.random.default_rng(seed), EVERYTHING, learning(target=rule))
            assert (sample.outlines is None) == (rule == "soft")
            if not len(sample.boxes):
                continue
            wanted = moved(bitmap, geometry, resample)
            np.testing.assert_array_equal(whole(sample.masks[0], sample.frames[0], geometry.size), wanted)
            seen += wanted.any()
    assert seen > 40


def test_outlines_go_where_the_boxes_go() -> None:
    _, outline = l_shape()
    record = record_of([outline], (90, 110))
    far = replace(EVERYTHING, crop=0)  # nothing is cut, so a box is its outline's
    for seed in range(20):
        sample = augment(blank(record.size), record, np.random.default_rng(seed), far, learning(target="polygon"))
        (points,) = sample.outlines[0]
        assert points.shape == outline[0].shape
        np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], sample.boxes[0], atol=1e-4)
        assert sample.masks.shape == (1, 1, 1)
        assert not sample.masks.any()


def test_the_nearest_pixel_by_hand() -> None:
    """3 pixels on 5: their beginnings 0, 0.6, 1.2, ...; their centres 0.3, 0.9, 1.5, ..."""
    assert nearest_pixels(3, 5, centred=False).tolist() == [0, 0, 1, 1, 2]
    assert nearest_pixels(3, 5, centred=True).tolist() == [0, 0, 1, 2, 2]


def test_a_window_keeps_a_pixel_of_margin_and_grows_without_showing_more() -> None:
    bitmap = np.zeros((9, 12), bool)
    bitmap[3:5, 8:12] = True  # up to the right edge
    bits, frames = windows([bitmap, np.zeros((9, 12), bool)], np.arange(9), np.arange(12))
    assert frames.tolist() == [[7, 2, 12, 7], [0, 0, 5, 5]]
    wanted = np.zeros((5, 5), bool)
    wanted[1:3, 1:] = True
    np.testing.assert_array_equal(bits, [wanted, wanted & False])
    larger = grown(bits, 7)
    assert larger[0, 1:3, 1:].all()
    assert larger.sum() == 12


def test_a_bitmap_of_any_annotation() -> None:
    bitmap, outline = l_shape()
    np.testing.assert_array_equal(draw_bitmap(rle_of(bitmap), bitmap.shape), bitmap)
    np.testing.assert_array_equal(draw_bitmap(outline, bitmap.shape), bitmap)
    assert not draw_bitmap(None, (4, 5)).any()


def test_a_batch_carries_them(tmp_path) -> None:
    """Squares of 10 pixels, at twice their size."""
    dataset = write(tmp_path, 4, objects=lambda i: (3, 0, 1, 2)[i])
    rule = InputConfig(min_size=0, zoom=2.0, max_size=512, canvas="multiple-of-32")
    crop = AugmentConfig(crop=200, horizontal_flip=0.0)
    (soft,) = TrainLoader(dataset, learning(rule, target="soft"), crop, batch=4).batches(0)
    assert soft.gt.outlines is None
    assert soft.gt.masks.shape == (4, 16, 22, 22)
    assert (soft.gt.masks.sum((2, 3))[soft.gt.valid] == 400).all()
    (polygon,) = TrainLoader(dataset, learning(rule, target="polygon"), crop, batch=4).batches(0)
    assert polygon.gt.outlines is not None
    points, parts, spans = polygon.gt.outlines
    assert polygon.gt.masks.shape == (4, 16, 1, 1)
    assert (spans[..., 1] - spans[..., 0]).tolist() == polygon.gt.valid.long().tolist()
    for b, g in polygon.gt.valid.nonzero().tolist():
        part = int(spans[b, g, 0])
        square = points[parts[part] : parts[part + 1]]
        assert torch.cat([square.amin(0), square.amax(0)]).tolist() == polygon.gt.boxes[b, g].tolist()
