"""The letters for tensor shapes, and the bundles of tensors that the rest of the package passes around.

`B` images · `I` image channels · `H W` canvas pixels · `L` pyramid levels · `C` channels ·
`A` anchors of an image, all levels · `G` ground-truth slots · `P` proposal slots ·
`R` sampled RoI slots · `F` foreground RoI slots · `D` detection slots, or output channels ·
`K` classes without background · `K1` with it · `Kd` box deltas of a RoI: K, or 1 if class-agnostic ·
`O` maps of a RoI · `S` pooled side or side of a stored mask · `M` mask side · `J` keypoints · `Q` heatmap side ·
`V` points of polygons · `N` any number.

Boxes are (x1, y1, x2, y2), float32, continuous canvas pixels: pixel i covers [i, i + 1). Sizes are (height, width).
Labels are 0..K-1. Unused slots hold zeros and have `valid` False; they never influence a result.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int, Num
from torch import Tensor


class Images(NamedTuple):
    """A batch of images in the top left corner of a common canvas, padded to the right and below."""

    pixels: Num[Tensor, "B I H W"]  # 0..255, RGB; uint8 if the resize rule rounds, else float32
    sizes: Int[Tensor, "B 2"]  # (height, width) of the image on the canvas
    original_sizes: Int[Tensor, "B 2"]  # before resizing
    scales: Float[Tensor, "B 2"]  # canvas pixels per original pixel, (y, x)
    seeds: Int[Tensor, " B"]  # of all random choices for this image
    views: tuple["Images", ...] = ()  # the same images, resized or mirrored, for test-time augmentation


class Outlines(NamedTuple):
    """The polygons of the objects of a batch, concatenated, in canvas pixels."""

    points: Float[Tensor, "V 2"]  # float64, (x, y)
    parts: Int[Tensor, " P1"]  # polygon p has the points parts[p]:parts[p + 1]
    spans: Int[Tensor, "B G 2"]  # an object has the polygons spans[..., 0]:spans[..., 1]; none if it is a bitmap


class GroundTruth(NamedTuple):
    """The objects of a batch, in canvas pixels.

    A mask is S x S bits inside its own frame in `mask_boxes`. A crop or flip changes the frame, never the bits: a
    mirrored frame (x1 > x2 or y1 > y2) means a mirrored mask. The frame may extend beyond the image and beyond `boxes`.
    If the model learns masks by another framework's rule, a bit is one canvas pixel and S fits the largest object.
    """

    boxes: Float[Tensor, "B G 4"]
    labels: Int[Tensor, "B G"]
    masks: Num[Tensor, "B G S S"] | None  # bool or uint8, 1 inside; None without a mask branch
    mask_boxes: Float[Tensor, "B G 4"] | None
    keypoints: Float[Tensor, "B G J 3"] | None  # x, y, v: 0 not labelled, 1 hidden, 2 visible
    ignore: Bool[Tensor, "B G"]  # crowds: never positive, and boxes inside them are never negative
    valid: Bool[Tensor, "B G"]  # True for crowds too
    outlines: Outlines | None = None  # for the rule that rasterizes polygons inside each RoI


class Proposals(NamedTuple):
    """Boxes that the RPN proposes as objects, best first."""

    boxes: Float[Tensor, "B P 4"]
    scores: Float[Tensor, "B P"]  # objectness logits
    valid: Bool[Tensor, "B P"]


class AnchorTargets(NamedTuple):
    """The sampled anchors, N per image, and their targets. Foreground first."""

    index: Int[Tensor, "B N"]  # into the A anchors
    deltas: Float[Tensor, "B N 4"]  # meaningful for foreground only
    foreground: Bool[Tensor, "B N"]
    valid: Bool[Tensor, "B N"]


class RoIs(NamedTuple):
    """Sampled regions of interest and their targets. Foreground first, within the first F slots."""

    boxes: Float[Tensor, "B R 4"]
    labels: Int[Tensor, "B R"]  # 0..K-1, background K
    gt_index: Int[Tensor, "B R"]  # matched ground-truth slot
    gt_boxes: Float[Tensor, "B R 4"]  # the box of that slot
    foreground: Bool[Tensor, "B R"]
    valid: Bool[Tensor, "B R"]


class Detections(NamedTuple):
    """The objects that the model found, best first, in canvas pixels."""

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]  # 0..1
    labels: Int[Tensor, "B D"]
    masks: Float[Tensor, "B D M M"] | None  # probability inside the box, 0..1
    keypoints: Float[Tensor, "B D J 3"] | None  # x, y, score
    valid: Bool[Tensor, "B D"]


class Term(NamedTuple):
    """One loss as a sum and the count by which it is divided; ranks add up both before dividing."""

    sum: Float[Tensor, ""]
    count: Float[Tensor, ""]


class Losses(NamedTuple):
    """L = L_cls + L_box + L_mask (+ L_keypoint), section 3, and the two terms of the RPN; None for an absent term."""

    rpn_class: Term | None
    rpn_box: Term | None
    box_class: Term | None = None
    box_box: Term | None = None
    mask: Term | None = None
    keypoint: Term | None = None
