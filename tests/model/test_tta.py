"""Test-time augmentation: one view is the plain answer, a mirrored image gives a mirrored one, maps are averaged."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.canvas import prepare_views
from maskrcnn.config import TTA
from maskrcnn.errors import ConfigError
from maskrcnn.model import tta
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.model.tta import Views
from maskrcnn.ops.boxes import mirror, to_canvas, to_image
from maskrcnn.structures import Detections, Images, Proposals
from maskrcnn.weights.interop.profiles import with_profile
from tests.model.small import NUM_KEYPOINTS, assert_same_detections, decided, drawn_images, one, small

KEYPOINTS: dict[str, Any] = {"keypoint_head": {"enabled": True}}
DETECTRON = {"inclusive": True, "frame": "image", "nms_closed": True}
PAIRS = [(0, 1), (3, 4)]


def mirrored(images: Images) -> Images:
    """Image by image, on the canvas."""
    pixels = images.pixels.clone()
    for b, (_, width) in enumerate(images.sizes.tolist()):
        pixels[b, :, :, :width] = images.pixels[b, :, :, :width].flip(-1)
    return images._replace(pixels=pixels)


def enlarged(images: Images) -> Images:
    """The same images twice as large."""
    pixels = images.pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return images._replace(pixels=pixels, sizes=images.sizes * 2, scales=images.scales * 2)


def unsure(config) -> MaskRCNN:
    """A model whose scores are not all next to 1, where the order of equal ones would be chance."""
    model: Any = decided(config).eval()
    model.box_head.class_logits.weight.data *= 0.05
    return model


CONFIGS = pytest.mark.parametrize(
    "config",
    [
        small(**KEYPOINTS),
        small("R-18-C4", **KEYPOINTS),
        small(mask_head={"loss": "softmax"}, box_arithmetic=DETECTRON),
        small(mask_head={"enabled": False}),
    ],
    ids=["FPN", "C4", "Detectron", "boxes"],
)


def seen(
    model: MaskRCNN, views: Sequence[Images], *, flip: bool, pairs: Sequence[tuple[int, int]] = PAIRS
) -> Detections:
    """What the model finds in all of these views together."""
    tta = TTA(tuple(1.0 + n / 100 for n in range(len(views) // (2 if flip else 1))), flip)
    return Views(model, tta, pairs).detect(views[0]._replace(views=tuple(views[1:])))


@CONFIGS
@torch.no_grad()
def test_one_view_is_the_plain_answer(config) -> None:
    model = unsure(config)
    plain = model.detect(drawn_images())
    got = seen(model, [drawn_images()], flip=False)
    for b in range(2):
        assert plain.valid[b].any()
        assert_same_detections(one(got, b), one(plain, b))


@CONFIGS
@torch.no_grad()
def test_a_mirrored_image_gives_a_mirrored_answer(config) -> None:
    model = unsure(config)
    views = [drawn_images(), enlarged(drawn_images())]
    mirrors = [mirrored(view) for view in views]
    straight = seen(model, views + mirrors, flip=True)
    got = seen(model, mirrors + views, flip=True)
    check_mirrored(got, straight, views[0], config.box_arithmetic.inclusive)


@pytest.mark.parametrize("profile", ["ours", "detectron", "detectron2", "torchvision"])
@pytest.mark.parametrize("width", [161, 160])
@torch.no_grad()
def test_a_mirror_is_exact_where_a_size_is_rounded(profile, width) -> None:
    """101 / 97 of 161 and of 160 are 167.6 and 166.6 pixels; where Detectron takes 168, its last begins beyond."""
    config = with_profile(small(input={"min_size": 101, "max_size": 400}), profile)
    model = unsure(config)
    model.normalise.std.fill_(58)  # some profiles' is 1: with these weights all scores would be next to 1
    image = np.random.default_rng(0).integers(0, 256, (97, width, 3), dtype=np.uint8)
    backend = Views(model, TTA((1.0,)), PAIRS)
    straight, got = (
        backend.detect(prepare_views(array, config.input, backend.views)) for array in (image, image[:, ::-1])
    )
    check_mirrored(got, straight, prepare_views(image, config.input), config.box_arithmetic.inclusive)


def check_mirrored(got: Detections, straight: Detections, images: Images, inclusive: bool) -> None:
    assert straight.valid.any(1).all()
    in_image = to_image(straight.boxes, images.scales, inclusive)
    boxes = to_canvas(mirror(in_image, images.original_sizes[:, 1]), images.scales, inclusive)
    width = (images.original_sizes[:, 1:] - float(inclusive)) * images.scales[:, 1:]  # [B 1], for points
    keypoints = straight.keypoints
    if keypoints is not None:
        keypoints = keypoints[:, :, [1, 0, 2, 4, 3]]
        keypoints = torch.cat((width[..., None, None] - keypoints[..., :1], keypoints[..., 1:]), -1)
    masks = None if straight.masks is None else straight.masks.flip(-1)
    for b in range(len(width)):
        assert_same_detections(one(got, b), one(straight._replace(boxes=boxes, masks=masks, keypoints=keypoints), b))


@torch.no_grad()
def test_a_view_of_its_own_adds_something() -> None:
    """The other tests would not see a second view that is not looked at."""
    model = unsure(small())
    plain = seen(model, [drawn_images()], flip=False, pairs=[])
    for views, flip in (
        ([drawn_images(), enlarged(drawn_images())], False),
        ([drawn_images(), mirrored(drawn_images())], True),
    ):
        got = seen(model, views, flip=flip, pairs=[])
        assert not torch.equal(got.scores, plain.scores)


def stub(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    found: Sequence[Detections],
    masks: Sequence[Tensor],
    heatmaps: Sequence[Tensor],
) -> list[Tensor]:
    """Makes the model say, of its first, second ... view, these candidates, masks and maps. Gives the boxes it is asked
    about, view by view, and at last the maps that keypoints are read from.
    """
    asked: list[Tensor] = []
    turns = iter(found)
    details = iter(zip(masks, heatmaps, strict=True))
    nothing = Proposals(torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool))
    model.pyramid = lambda images: [torch.zeros(1, 16, 8, 8)] * 5
    monkeypatch.setattr(tta, "propose", lambda *_: nothing)
    monkeypatch.setattr(tta, "candidates", lambda *_: next(turns))
    monkeypatch.setattr(Views, "_details", lambda self, _, there: asked.append(there.boxes[0]) or next(details))
    located = torch.zeros(1, 2, NUM_KEYPOINTS, 3)
    monkeypatch.setattr(tta, "locate_keypoints", lambda maps, *_: asked.append(maps) or located)
    return asked


def said(*rows: tuple[float, float, float, float, float]) -> Detections:
    """Candidates of class 0 in one image: box and score."""
    table = torch.tensor([rows])
    labels = torch.zeros(table.shape[:2], dtype=torch.int64)
    return Detections(table[..., :4], table[..., 4], labels, None, None, torch.ones_like(labels, dtype=torch.bool))


def test_boxes_are_suppressed_together_and_maps_averaged(monkeypatch) -> None:
    """An image of 128 x 192, seen at half its size, 64 x 96, and at its own, each mirrored too.

    One object at (20, 40, 60, 100), found in all four views, a little off in the third; another only in the last.
    """
    images = one(drawn_images(), 0)
    views = [images, enlarged(images)] * 2  # mirrored, they are of the same sizes
    found = [
        said((10, 20, 30, 50, 0.8)),
        said((20, 40, 60, 100, 0.9)),
        said((65, 20, 85, 50, 0.7)),  # at (22, 40, 62, 100)
        said((132, 40, 172, 100, 0.6), (2, 4, 42, 64, 0.5)),  # the second at (150, 4, 190, 64)
    ]
    ramp = torch.tensor([0.1, 0.2, 0.4, 0.8]).expand(1, 2, 4, 4)
    maps = torch.zeros(4, 1, 2, NUM_KEYPOINTS, 8, 8)
    maps[0, ..., 0, 3, 1] = 2.0  # the first keypoint, at column 1
    maps[2, ..., 1, 3, 6] = 4.0  # mirrored: the second keypoint, at column 6
    model = decided(small(**KEYPOINTS))
    asked = stub(monkeypatch, model, found, [ramp, ramp * 0.5, ramp, ramp * 0], list(maps))
    got = seen(model, views, flip=True)
    filled = got.valid[0]
    assert got.scores[0, filled].tolist() == pytest.approx([0.9, 0.5])
    assert got.boxes[0, filled].tolist() == [[10, 20, 30, 50], [75, 2, 95, 32]]
    here = torch.tensor([[10.0, 20, 30, 50], [75, 2, 95, 32]])
    there = torch.tensor([[66.0, 20, 86, 50], [1, 2, 21, 32]])  # 96 wide
    for boxes, wanted in zip(asked[:4], (here, here * 2, there, there * 2), strict=True):
        torch.testing.assert_close(boxes, wanted)
    assert got.masks is not None
    average = (1.5 * ramp + ramp.flip(-1)) / 4
    torch.testing.assert_close(got.masks, average)
    wanted = torch.zeros(1, 2, NUM_KEYPOINTS, 8, 8)
    wanted[..., 0, 3, 1] = (2.0 + 4.0) / 4
    torch.testing.assert_close(asked[4], wanted)


@pytest.mark.parametrize("scales", [(0.5, 0.9, 2.0, 1.2), (2.0, 1.2, 0.9, 0.5)])
def test_the_view_nearest_the_models_own_size_gives_the_canvas(scales) -> None:
    """In whatever order they are asked for; of two that are as near, the finer."""
    assert TTA(scales).scales == (0.9, 1.2, 2.0, 0.5)


def test_the_papers_views_and_impossible_ones() -> None:
    assert sorted(800 * scale for scale in TTA().scales) == list(range(400, 1201, 100))  # Table 8
    assert TTA((2.0,), False).scales == (2.0,)
    for scales in ((), (0.0,), (1.0, -1.0), (float("nan"),), (11.0,)):
        with pytest.raises(ConfigError, match="scales between"):
            TTA(scales)


def test_given_proposals_are_refused() -> None:
    with pytest.raises(ValueError, match="makes its own proposals"):
        Views(decided(small()), TTA(), []).detect(drawn_images(), Proposals(*[torch.zeros(1)] * 3))
