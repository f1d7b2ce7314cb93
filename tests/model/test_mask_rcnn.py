"""The page: padding never matters, nobody waits for a device, and its parts can be called one by one."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.model.losses import total
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.ops.dispatch import use
from maskrcnn.structures import GroundTruth, Images, Losses, Proposals
from tests.model.small import assert_same_detections, decided, drawn_images, looking, objects, one, small, terms

KEYPOINTS: dict[str, Any] = {"keypoint_head": {"enabled": True}}
NAN = float("nan")


def poisoned_objects() -> GroundTruth:
    """Padding slots full of NaN, wild labels and True."""
    gt = objects()
    empty = ~gt.valid
    assert gt.masks is not None
    assert gt.mask_boxes is not None
    assert gt.keypoints is not None
    return GroundTruth(
        torch.where(empty[..., None], NAN, gt.boxes),
        torch.where(empty, 1 << 40, gt.labels),
        gt.masks | empty[..., None, None],
        torch.where(empty[..., None], NAN, gt.mask_boxes),
        torch.where(empty[..., None, None], NAN, gt.keypoints),
        gt.ignore | empty,
        gt.valid,
    )


def poisoned_images() -> Images:
    """Pixels outside the image are not black."""
    images = drawn_images()
    images.pixels[1, :, 50:], images.pixels[1, :, :, 70:] = 255, 131
    return images


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("config", [small(**KEYPOINTS), small("R-18-C4", **KEYPOINTS)], ids=["FPN", "C4"])
def test_padding_never_matters(config, allowed) -> None:
    model = decided(config).train()

    def step(images: Images, gt: GroundTruth) -> dict[str, torch.Tensor]:
        model.zero_grad()
        losses = model.loss(images, gt)
        total(losses).backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        return found | {name: term.sum.detach() for name, term in terms(losses).items()}

    with looking(allowed):
        wanted, got = step(drawn_images(), objects()), step(poisoned_images(), poisoned_objects())
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name


def test_without_objects_there_is_a_loss_and_no_harm() -> None:
    """One image empty, then both; every padding slot is poison."""
    model = decided(small(**KEYPOINTS)).train()
    gt = poisoned_objects()
    for empty in ([1], [0, 1]):
        gt.valid[empty] = False
        hurt = gt._replace(
            boxes=torch.where(gt.valid[..., None], gt.boxes, NAN), ignore=torch.where(gt.valid, gt.ignore, True)
        )
        losses = model.loss(drawn_images(), hurt)
        assert total(losses).isfinite()
        total(losses).backward()
    assert {name for name, term in terms(losses).items() if term.count == 0} == {"mask", "keypoint"}
    assert losses.box_box.sum == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_live_norms_of_a_trunk_see_rois_only() -> None:
    """More slots than any image fills: the same losses and statistics as with just enough."""
    every = {"samples": 200, "positive_fraction": 0.5}  # no RoI is left to chance
    results, fresh = [], decided(small("R-18-C4", backbone={"norm": "bn"}, box_head=every)).train()
    gt = objects()
    boxes, valid = torch.cat((gt.boxes, gt.boxes + 2), 1).clamp(0, 64), torch.cat((gt.valid, gt.valid), 1)
    for more in (0, 20):
        scores = torch.zeros(len(valid), valid.shape[1] + more)
        given = Proposals(F.pad(boxes, (0, 0, 0, more), value=7.0), scores, F.pad(valid, (0, more)))
        model = copy.deepcopy(fresh)
        losses = learned_from(given, model, drawn_images(), gt)
        results.append({name: term.sum.detach() for name, term in terms(losses).items()} | dict(model.named_buffers()))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value)


def learned_from(given: Proposals, model: MaskRCNN, images: Images, gt: GroundTruth) -> Losses:
    """The heads' terms on given proposals."""
    return Losses(None, None, *model.head_terms(model.pyramid(images), given, gt, images))


@pytest.mark.parametrize("allowed", [True, False])
def test_live_norms_do_not_count_the_search_for_hard_examples(allowed) -> None:
    """The trunk's statistics after a step are those of its RoIs alone, given as if nobody had searched."""
    config = small("R-18-C4", backbone={"norm": "bn"}, box_head={"ohem": True, "samples": 12})
    searching: Any = decided(config).train()
    given, found, sample = copy.deepcopy(searching), [], searching.sample
    searching.sample = lambda *said: found.append(sample(*said)) or found[0]
    given.sample = lambda *_: found[0]
    with looking(allowed):
        wanted = {name: term.sum for name, term in terms(searching.loss(drawn_images(), objects())).items()}
        got = {name: term.sum for name, term in terms(given.loss(drawn_images(), objects())).items()}
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(dict(given.named_buffers()), dict(searching.named_buffers()))
    counts = {int(count) for name, count in searching.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {1}


def test_live_norms_of_a_head_see_objects_only() -> None:
    """An image without objects beside another one changes no statistic of the mask head."""
    fresh, gt = decided(small(mask_head={"norm": "bn"})).train(), objects()
    gt.valid[1] = False
    both, alone = copy.deepcopy(fresh), copy.deepcopy(fresh)
    both.loss(drawn_images(), gt)
    alone.loss(one(drawn_images(), 0), one(gt, 0))
    assert isinstance(both.mask_head, torch.nn.Module)
    for name, value in both.mask_head.named_buffers():
        torch.testing.assert_close(alone.get_buffer(f"mask_head.{name}"), value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(both.get_buffer("mask_head.convs.0.norm.running_mean"), torch.zeros(16))


@pytest.mark.parametrize("config", [small(**KEYPOINTS), small("R-18-C4", **KEYPOINTS)], ids=["FPN", "C4"])
def test_skipping_empty_slots_changes_nothing(config) -> None:
    model = decided(config)
    with torch.no_grad():
        wanted, skipping = model.train().loss(drawn_images(), objects()), model.eval().detect(drawn_images())
        with looking(False):
            got, detections = model.train().loss(drawn_images(), objects()), model.eval().detect(drawn_images())
    for name, term in terms(wanted).items():
        torch.testing.assert_close(terms(got)[name], term)
    for b in range(2):
        assert_same_detections(one(detections, b), one(skipping, b))
    assert detections.boxes.shape[1] == config.box_head.max_detections


class NoLooking(TorchDispatchMode):
    """Refuses what makes the host wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.strip("_").startswith("index"):  # by a mask: the kernel asks where it is true
            indices = args[1] if isinstance(args[1], list | tuple) else ()
            masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
            name = "nonzero" if masks else name
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def test_the_guard_refuses() -> None:
    looks: list[Callable[[torch.Tensor], object]] = [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x[0])]
    for look in looks:
        with NoLooking(), pytest.raises(AssertionError, match="waits"):
            look(torch.ones(3))


@pytest.mark.parametrize(
    "config",
    [small(**KEYPOINTS), small("R-18-C4"), small(box_head={"ohem": True})],
    ids=["FPN", "C4", "hard examples"],
)
def test_no_step_looks_at_a_tensor(config) -> None:
    model = decided(config)
    images, gt = drawn_images(), objects()
    with use("reference"), looking(False), NoLooking():
        total(model.train().loss(images, gt)).backward()
        with torch.inference_mode():
            model.eval().detect(images)


def test_given_proposals_replace_the_rpn() -> None:
    """The true boxes as proposals: every detection is near one of them, and the RPN has no part in the loss."""
    model, images, gt = decided(small()), drawn_images(), objects()
    given = Proposals(gt.boxes, torch.zeros(2, 4), gt.valid)
    losses = learned_from(given, model, images, gt)
    assert set(terms(losses)) == {"box_class", "box_box", "mask"}
    total(losses).backward()
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is None} == {"rpn"}
    with torch.inference_mode():
        detections = model.eval().detect(images, given)
    assert detections.valid.sum(1).max() <= 2 * 3  # two proposals, three classes


@pytest.mark.parametrize("features", ["shared", "own"])
def test_the_rpns_terms_alone_are_its_part_of_the_whole(features) -> None:
    model, images, gt = decided(small(rpn={"features": features})), drawn_images(), objects()
    pyramid = [] if features == "own" else model.pyramid(images)
    alone, whole = Losses(*model.rpn_terms(model.rpn(pyramid, images), gt, images)), model.loss(images, gt)
    for name, term in terms(alone).items():
        torch.testing.assert_close(term, terms(whole)[name])
    total(alone).backward()
    learning = {"rpn"} if features == "own" else {"rpn", "backbone", "neck"}
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None} == learning


def test_features_of_its_own_make_the_rpn_independent_of_the_others() -> None:
    """Weights of the shared kind, twice: the same answers; other weights in one of the two change that one alone."""
    shared = decided(small()).eval()
    own: Any = decided(small(rpn={"features": "own"})).eval()
    state = shared.state_dict()
    twice = {f"rpn.features.{name}": t for name, t in state.items() if name.startswith(("backbone.", "neck."))}
    own.load_state_dict(state | twice)
    images = drawn_images()
    with torch.no_grad():
        torch.testing.assert_close(own.propose(images).scores, shared.propose(images).scores)
        torch.testing.assert_close(own.detect(images).boxes, shared.detect(images).boxes)
        before = own.rpn([], images).logits
        own.backbone.stem.conv.weight.mul_(0.5)
        assert torch.equal(own.rpn([], images).logits, before)
        own.rpn.features.backbone.stem.conv.weight.mul_(0.5)
        assert not torch.allclose(own.rpn([], images).logits, before)


def test_keypoints_lie_in_their_boxes() -> None:
    model, images = decided(small(**KEYPOINTS)).eval(), drawn_images()
    with torch.inference_mode():
        found = model.detect(images)
    assert found.keypoints is not None
    low, high = found.boxes[:, :, None, :2], found.boxes[:, :, None, 2:]
    points = found.keypoints[..., :2]
    assert ((points >= low - 1e-3) & (points <= high.maximum(low + 1) + 1e-3)).all()


def test_channels_are_reversed_for_weights_that_saw_blue_first() -> None:
    rgb, bgr = (decided(small(input={"channel_order": order})).eval() for order in ("rgb", "bgr"))
    bgr.load_state_dict(rgb.state_dict())
    images = drawn_images()
    with torch.inference_mode():
        wanted = rgb.pyramid(images._replace(pixels=images.pixels.flip(1)))
        got = bgr.pyramid(images)
    torch.testing.assert_close(got, wanted)
