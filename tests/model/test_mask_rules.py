"""Mask targets by the rules of Detectron2 and torchvision: their own answers, and loops that spell them out."""

import math

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco

from maskrcnn.data.bitmaps import draw_bitmap, pack_polygons, windows
from maskrcnn.model.targets import bitmap_targets, polygon_targets, with_known_masks
from maskrcnn.structures import GroundTruth, Outlines, RoIs

TRIANGLE = np.array([[10.0, 10], [30, 10], [20, 30]])
SIZE = (40, 50)


def rois_on(boxes, objects, valid=None) -> RoIs:
    boxes, index = torch.tensor([boxes], dtype=torch.float32), torch.tensor([objects])
    yes = torch.ones(index.shape, dtype=torch.bool) if valid is None else torch.tensor([valid])
    return RoIs(boxes, index * 0, index, boxes, yes, yes)


def ground_truth(bitmaps, polygons=None) -> GroundTruth:
    """Objects of an image of `SIZE` that is its own canvas; `polygons` for the rule that draws them."""
    G = len(bitmaps)
    bits, frames = windows(bitmaps, np.arange(SIZE[0]), np.arange(SIZE[1]))
    outlines = None
    if polygons is not None:
        points, parts, spans = (torch.from_numpy(array) for array in pack_polygons(polygons))
        outlines = Outlines(points, parts, spans[None])
    flags, boxes = torch.ones(1, G, dtype=torch.bool), torch.zeros(1, G, 4)
    masks, places = torch.from_numpy(bits)[None], torch.from_numpy(frames)[None]
    return GroundTruth(boxes, torch.zeros(1, G, dtype=torch.long), masks, places, None, ~flags, flags, outlines)


def aligned_by_loops(bitmap, box, side, *, aligned):
    """RoIAlign of one bitmap [H W] as its formula reads, in float64."""
    H, W = bitmap.shape
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value - shift for value in box)
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    nx, ny = math.ceil(w / side), math.ceil(h / side)
    out = np.zeros((side, side))
    for p in range(side):
        for q in range(side):
            for i in range(ny):
                for j in range(nx):
                    y, x = y1 + (p + (i + 0.5) / ny) * h / side, x1 + (q + (j + 0.5) / nx) * w / side
                    if -1 <= y <= H and -1 <= x <= W:
                        y, x = max(y, 0.0), max(x, 0.0)
                        top, left = min(int(y), H - 1), min(int(x), W - 1)
                        low, right = min(top + 1, H - 1), min(left + 1, W - 1)
                        dy, dx = (y - top if low > top else 0), (x - left if right > left else 0)
                        upper = (1 - dx) * bitmap[top, left] + dx * bitmap[top, right]
                        lower = (1 - dx) * bitmap[low, left] + dx * bitmap[low, right]
                        out[p, q] += (1 - dy) * upper + dy * lower
    return out / max(nx * ny, 1)


def test_polygons_are_drawn_anew_in_each_roi(rng) -> None:
    """As COCO's library draws them once they are shifted and scaled; in a RoI of no width it is a tenth of a pixel."""
    polygons = [[rng.uniform(0, 40, (5, 2)), rng.uniform(0, 40, (3, 2))], [TRIANGLE]]
    gt = ground_truth([np.zeros(SIZE, bool)] * 2, polygons)
    boxes = [[4.0, 2, 20, 34], [8, 8, 24, 24], [16, 2, 48, 34], [20, 15, 20.03, 15.03], [8, 8, 24, 24]]
    objects = [0, 1, 1, 1, 0]
    got = polygon_targets(rois_on(boxes, objects, [True] * 4 + [False]), gt, side=8)[0]
    for target, (x1, y1, x2, y2), index in zip(got[:3], boxes, objects, strict=False):
        parts = [((part - [x1, y1]) * [8 / (x2 - x1), 8 / (y2 - y1)]).ravel().tolist() for part in polygons[index]]
        assert target.tolist() == coco.decode(coco.merge(coco.frPyObjects(parts, 8, 8))).tolist()  # type: ignore[arg-type]
        assert 0 < target.mean() < 1
    assert got[3].all()
    assert not got[4].any()


def test_a_bitmap_is_seen_through_the_roi_softly() -> None:
    """torchvision's answer for the same triangle and RoI, to two digits."""
    bitmap = draw_bitmap([TRIANGLE], SIZE)
    got = bitmap_targets(rois_on([[8.0, 8, 28, 32]], [0]), ground_truth([bitmap]), side=7)[0, 0]
    assert got[0, 2:6].tolist() == pytest.approx([0.57] * 4, abs=0.005)
    assert got[1].tolist() == pytest.approx([0.04, 0.81, 1, 1, 1, 1, 0.84], abs=0.005)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_window_stands_for_the_whole_bitmap(aligned, rng) -> None:
    """Objects in the middle, on every edge, and everywhere; RoIs beside, across and around them."""
    bitmaps = [np.zeros(SIZE, bool) for _ in range(4)]
    bitmaps[0][12:25, 20:31] = rng.random((13, 11)) < 0.7
    bitmaps[1][:9, :6] = True
    bitmaps[2][31:, 44:] = True
    bitmaps[3][:] = rng.random(SIZE) < 0.5
    gt = ground_truth(bitmaps)
    boxes, objects = [], []
    for _ in range(40):
        x, y = np.sort(rng.uniform(0, SIZE[1], 2)), np.sort(rng.uniform(0, SIZE[0], 2))
        boxes.append([x[0], y[0], x[1] + 0.1, y[1] + 0.1])
        objects.append(int(rng.integers(4)))
    boxes[0], objects[0] = [0, 0, SIZE[1], SIZE[0]], 2
    boxes = np.minimum(boxes, [SIZE[1], SIZE[0]] * 2).astype(np.float32).tolist()
    got = bitmap_targets(rois_on(boxes, objects), gt, side=5, aligned=aligned)[0]
    for target, box, index in zip(got.numpy(), boxes, objects, strict=True):
        wanted = aligned_by_loops(bitmaps[index], box, 5, aligned=aligned)
        np.testing.assert_allclose(target, wanted, atol=2e-4)


def test_of_polygons_and_bitmaps_each_has_its_rule() -> None:
    """And an object of neither has no mask to learn."""
    bitmap = np.zeros(SIZE, bool)
    bitmap[8:20, 8:28] = True  # the upper half of the RoI
    gt = ground_truth([np.zeros(SIZE, bool), bitmap, np.zeros(SIZE, bool)], [[TRIANGLE], [], []])
    fg = rois_on([[8.0, 8, 28, 32]] * 3, [0, 1, 2])
    got = polygon_targets(fg, gt, side=4)[0]
    assert got[0].any()
    assert got[1].tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
    assert not got[2].any()
    assert with_known_masks(fg, gt).valid.tolist() == [[True, True, False]]
