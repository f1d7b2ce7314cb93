"""Tables of tensor names: both directions, offsets, and two names for one tensor."""

import pytest

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.interop.detectron2 import DETECTRON2
from maskrcnn.weights.interop.origin import rename_all, renamed
from maskrcnn.weights.interop.torchvision import TORCHVISION

TABLE = (
    ("stage{s}.{n}.{c}.{x}", "layer{s-1}.{n}.{c}.{x}"),
    ("fc.{i}.{x}", "fc{i+6}.{x}"),
    ("fc.0.{x}", "head.{x}"),  # another way to say it
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stage2.0.conv1.weight", "layer1.0.conv1.weight"),
        ("stage5.12.shortcut.running_var", "layer4.12.shortcut.running_var"),
        ("fc.1.bias", "fc7.bias"),
    ],
)
def test_a_row_is_read_in_both_directions(ours: str, theirs: str) -> None:
    assert renamed(theirs, TABLE, to_ours=True) == ours
    assert renamed(ours, TABLE, to_ours=False) == theirs


@pytest.mark.parametrize(
    "name", ["layer1.0.conv4.weight", "layer1.0.conv1.weights", "xlayer1.0.conv1.weight", "layer1.a.conv1.weight", ""]
)
def test_a_name_that_matches_no_row_has_no_translation(name: str) -> None:
    assert renamed(name, TABLE, to_ours=True) is None


def test_the_first_row_decides_how_a_name_is_written() -> None:
    assert renamed("head.bias", TABLE, to_ours=True) == "fc.0.bias"
    assert renamed("fc.0.bias", TABLE, to_ours=False) == "fc6.bias"


def test_all_are_renamed_and_unknown_names_are_returned() -> None:
    assert rename_all({"fc6.bias": 1, "other": 2}, TABLE, to_ours=True) == ({"fc.0.bias": 1}, ["other"])


def test_two_tensors_with_one_new_name_are_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"fc6\.bias and head\.bias both map to fc\.0\.bias"):
        rename_all({"fc6.bias": 1, "head.bias": 2}, TABLE, to_ours=True)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.body.layer3.5.bn2.running_mean", "backbone.res4.5.conv2.norm.running_mean"),
        ("backbone.body.layer1.0.downsample.0.weight", "backbone.res2.0.shortcut.conv.weight"),
        ("backbone.fpn.inner_blocks.2.0.bias", "neck.laterals.2.conv.bias"),
        ("backbone.fpn.layer_blocks.0.bias", "neck.outputs.0.conv.bias"),  # of the released files
        ("rpn.head.conv.weight", "rpn.convs.0.conv.weight"),
        ("rpn.head.conv.1.0.weight", "rpn.convs.1.conv.weight"),
        ("roi_heads.box_head.fc7.weight", "box_head.fc.1.weight"),
        ("roi_heads.box_head.5.weight", "box_head.fc.0.weight"),
        ("roi_heads.box_head.3.1.num_batches_tracked", "box_head.convs.3.norm.num_batches_tracked"),
        ("roi_heads.mask_head.mask_fcn4.weight", "mask_head.convs.3.conv.weight"),
        ("roi_heads.keypoint_head.14.bias", "keypoint_head.convs.7.conv.bias"),
    ],
)
def test_names_of_torchvision(theirs: str, ours: str) -> None:
    assert renamed(theirs, TORCHVISION.table, to_ours=True) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.bottom_up.res4.22.conv3.norm.bias", "backbone.res4.22.conv3.norm.bias"),
        ("backbone.res3.0.shortcut.weight", "backbone.res3.0.shortcut.conv.weight"),
        ("backbone.fpn_lateral5.norm.weight", "neck.laterals.3.norm.weight"),
        ("backbone.fpn_output2.bias", "neck.outputs.0.conv.bias"),
        ("proposal_generator.rpn_head.conv.weight", "rpn.convs.0.conv.weight"),
        ("proposal_generator.rpn_head.conv.conv1.weight", "rpn.convs.1.conv.weight"),
        ("roi_heads.res5.2.conv1.norm.running_var", "box_pool.trunk.2.conv1.norm.running_var"),
        ("roi_heads.box_head.conv4.norm.bias", "box_head.convs.3.norm.bias"),
        ("roi_heads.mask_head.mask_fcn1.bias", "mask_head.convs.0.conv.bias"),
        ("roi_heads.keypoint_head.conv_fcn8.weight", "keypoint_head.convs.7.conv.weight"),
        ("roi_heads.keypoint_head.score_lowres.weight", "keypoint_head.deconv.weight"),
    ],
)
def test_names_of_detectron2(theirs: str, ours: str) -> None:
    assert renamed(theirs, DETECTRON2.table, to_ours=True) == ours
