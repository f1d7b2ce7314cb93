"""What anchors, RoIs, masks and keypoints should say, by hand."""

from typing import Any

import torch

from maskrcnn.config import BoxArithmetic, BoxHeadConfig, MaskHeadConfig, RPNConfig
from maskrcnn.model.hard_examples import hardest
from maskrcnn.model.losses import roi_errors
from maskrcnn.model.targets import (
    foreground,
    keypoint_targets,
    label_anchors,
    mask_targets,
    sample_rois,
    with_known_masks,
)
from maskrcnn.ops.boxes import decode
from maskrcnn.structures import AnchorTargets, GroundTruth, Images, Proposals, RoIs

NAN = float("nan")
HARD = MaskHeadConfig()
ANCHORS = torch.tensor(
    [
        [0.0, 0, 20, 20],  # IoU 1 with the first object
        [0, 0, 20, 25],  # 0.8 with it
        [0, 0, 20, 40],  # 0.5: neither
        [60, 60, 80, 80],  # the best that the second object has, 0.25
        [30, 0, 50, 20],  # background
        [-10, 0, 10, 20],  # background, 1/3 with the first: neither
        [90, 0, 110, 20],  # background, but in a crowd by more than half
        [84, 0, 104, 20],  # background, in a crowd by less than half
    ]
)


def ground_truth() -> GroundTruth:
    boxes = torch.tensor([[[0.0, 0, 20, 20], [60, 60, 70, 70], [95, 0, 120, 40], [NAN] * 4]])
    flags = torch.tensor([[True, True, True, False]])
    masks = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    masks[0, 0, :, :4] = True  # the left half
    keypoints = torch.zeros(1, 4, 2, 3)
    keypoints[0, 0] = torch.tensor([[5.0, 10, 2], [15, 10, 0]])
    ignore = torch.tensor([[False, False, True, True]])
    return GroundTruth(boxes, torch.tensor([[2, 1, 0, 99]]), masks, boxes.clone(), keypoints, ignore, flags)


def labelled(crowds: str = "ignore", *, inclusive: bool = False, **changes: Any) -> AnchorTargets:
    sizes = torch.tensor([[100, 100]])
    images = Images(torch.zeros(1, 3, 100, 100), sizes, sizes, torch.ones(1, 2), torch.tensor([1]))
    config = RPNConfig(**{"samples": 100, **changes})
    return label_anchors(ANCHORS, ground_truth(), images, config, BoxArithmetic(inclusive=inclusive), crowds=crowds)


def test_anchors_by_hand() -> None:
    targets = labelled()
    assert sorted(targets.index[targets.foreground].tolist()) == [0, 1, 3]
    assert sorted(targets.index[targets.valid & ~targets.foreground].tolist()) == [4, 7]
    assert targets.index.shape == (1, 8)
    boxes = decode(targets.deltas[targets.foreground], ANCHORS[targets.index[targets.foreground]])
    wanted = {0: [0, 0, 20, 20], 1: [0, 0, 20, 20], 3: [60, 60, 70, 70]}
    for index, box in zip(targets.index[targets.foreground].tolist(), boxes, strict=True):
        torch.testing.assert_close(box, torch.tensor(wanted[index]).float(), rtol=0, atol=1e-4)


def test_anchors_across_the_edge_are_left_out_on_request() -> None:
    inside = labelled(inside_only=True, negative_iou=0.4)
    assert sorted(inside.index[inside.valid].tolist()) == [0, 1, 3, 4]
    everywhere = labelled(negative_iou=0.4)
    assert sorted(everywhere.index[everywhere.valid].tolist()) == [0, 1, 3, 4, 5, 7]


def test_where_crowds_are_dropped_they_are_background() -> None:
    """As the other frameworks train: neither an anchor nor a RoI is spared for lying in a crowd."""
    anchors = labelled("drop")
    assert sorted(anchors.index[anchors.valid & ~anchors.foreground].tolist()) == [4, 6, 7]
    rois = sampled(crowds="drop")
    assert sorted(rois.boxes[rois.valid & ~rois.foreground].tolist()) == [[0, 0, 20, 41], [95, 0, 115, 20]]


def sampled(samples: int = 100, crowds: str = "ignore", **changes: Any) -> RoIs:
    boxes = torch.tensor(
        [[[0.0, 0, 20, 20], [0, 0, 20, 40], [0, 0, 20, 41], [95, 0, 115, 20], [60, 60, 70, 71], [NAN] * 4]]
    )
    valid = torch.tensor([[True] * 5 + [False]])
    config = BoxHeadConfig(samples=samples, **changes)
    proposals = Proposals(boxes, torch.zeros(1, 6), valid)
    return sample_rois(proposals, ground_truth(), torch.tensor([4]), config, classes=3, crowds=crowds)


def test_rois_by_hand() -> None:
    """Five proposals and two true boxes; one lies in a crowd, one has IoU 0.5 and one less with the first object."""
    rois = sampled()
    assert int(rois.valid.sum()) == 6
    fg = rois.foreground
    assert fg[0, :5].all()
    assert sorted(rois.labels[fg].tolist()) == [1, 1, 2, 2, 2]
    assert rois.labels[rois.valid & ~fg].tolist() == [3]
    assert rois.boxes[rois.valid & ~fg].tolist() == [[0, 0, 20, 41]]
    for label, box in zip(rois.labels[fg].tolist(), rois.gt_boxes[fg].tolist(), strict=True):
        assert box == {2: [0, 0, 20, 20], 1: [60, 60, 70, 70]}[label]
    assert not rois.boxes[~rois.valid].any()
    assert int(sampled(append_gt=False).valid.sum()) == 4


def test_at_most_a_quarter_is_foreground() -> None:
    rois = sampled(samples=4)
    assert rois.valid.shape == (1, 4)
    assert rois.foreground.tolist() == [[True, False, False, False]]
    fg = foreground(sampled(samples=8), BoxHeadConfig(samples=8))
    assert fg.valid.tolist() == [[True, True]]
    fg = foreground(sampled(samples=4), BoxHeadConfig(samples=8))
    assert fg.valid.tolist() == [[True, False]]
    assert fg.labels[0, 1] == 0


def rois_on(boxes: list[list[float]], index: int = 0) -> RoIs:
    R = len(boxes)
    flags = torch.ones(1, R, dtype=torch.bool)
    at = torch.full((1, R), index)
    return RoIs(torch.tensor([boxes]), at * 0, at, torch.tensor([boxes]), flags, flags)


def test_the_target_is_the_mask_seen_through_the_roi() -> None:
    """The object's left half, in a frame of 20 x 20: the whole, its left half, its right half, twice its extent."""
    rois = rois_on([[0.0, 0, 20, 20], [0, 0, 10, 20], [10, 0, 20, 20], [0, 0, 40, 40]])
    got = mask_targets(rois, ground_truth(), HARD, side=4)
    row = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    for n in range(4):
        assert got[0, n, 1].tolist() == row[n]
    assert got[0, 3, 2:].tolist() == [[0] * 4] * 2


def test_a_frame_turned_over_is_a_mirror() -> None:
    gt = ground_truth()
    assert gt.mask_boxes is not None
    gt.mask_boxes[0, 0] = torch.tensor([20.0, 0, 0, 20])
    assert mask_targets(rois_on([[0.0, 0, 20, 20]]), gt, HARD, side=4)[0, 0, 1].tolist() == [0, 0, 1, 1]


def test_an_object_without_mask_teaches_none() -> None:
    gt = ground_truth()
    index = torch.tensor([[0, 1]])  # the second object has a box alone
    yes = torch.tensor([[True, True]])
    fg = RoIs(gt.boxes[:, :2], torch.zeros(1, 2, dtype=torch.long), index, gt.boxes[:, :2], yes, yes)
    assert with_known_masks(fg, gt).valid.tolist() == [[True, False]]


def test_keypoints_fall_into_cells() -> None:
    """The first keypoint lies 5 of 20 to the right, half way down; the second is not labelled; elsewhere none is
    seen.
    """
    cells, seen = keypoint_targets(rois_on([[0.0, 0, 20, 20], [30, 30, 50, 50]]), ground_truth(), side=4)
    assert cells.tolist() == [[[2 * 4 + 1, 0], [0, 0]]]
    assert seen.tolist() == [[[True, False], [False, False]]]


def test_the_hardest_are_kept_and_of_neighbours_one() -> None:
    """Losses fall from slot to slot; the second overlaps the first by 0.9, the last is no RoI."""
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    rois = rois_on(boxes)._replace(
        labels=torch.full((1, 5), 3),
        foreground=torch.tensor([[False, False, False, True, False]]),
        valid=torch.tensor([[True, True, True, True, False]]),
    )
    rois.labels[0, 3] = 1
    logits = torch.zeros(1, 5, 4)
    logits[0, :, 0] = torch.tensor([9.0, 8, 3, 2, 50])
    class_errors, box_errors = roi_errors(logits, torch.zeros(1, 5, 3, 4), rois, BoxHeadConfig())
    for samples, kept in ((3, [3, 0, 2]), (1, [0])):
        got = hardest(rois, class_errors + box_errors, samples)
        assert got.boxes[got.valid].tolist() == [boxes[i] for i in kept]
        assert got.foreground[0, 0] == (kept[0] == 3)
        assert got.labels[got.valid].tolist() == [1 if i == 3 else 3 for i in kept]
