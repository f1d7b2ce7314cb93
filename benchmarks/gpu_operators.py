"""The operators at the sizes of a training batch of 8 on 800 x 1344: ours, the reference, and torchvision's."""

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_measure import Run
from maskrcnn.ops.match import match
from maskrcnn.ops.nms import nms
from maskrcnn.ops.paste import paste
from maskrcnn.ops.roi_align import roi_align
from tests.ops.kernel_checks import STRIDES, boxes_of, determinism, pyramid_of

BATCH, CANVAS, ROIS, ANCHORS = 8, (800, 1344), 512, 268_569


def contestants() -> dict[str, Callable[[str], dict[str, dict[str, Run]]]]:
    """For each operator, what makes the functions to be timed on a device: by the work, then by who does it."""
    return {"roi_align": _roi_align, "nms": _nms, "match": _match, "paste": _paste}


def _roi_align(device: str) -> dict[str, dict[str, Run]]:
    maps = pyramid_of(*CANVAS, 256, torch.bfloat16, device, BATCH)
    boxes, levels, valid = boxes_of(*CANVAS, ROIS, device, BATCH)
    numbers = {"scales": [(1 / s, 1 / s) for s in STRIDES], "size": 7, "sampling": 2, "aligned": True}
    forward: dict[str, Callable[[], Tensor]] = {
        "triton": partial(roi_align, maps, boxes, levels, valid, **numbers),
        "reference": partial(roi_align, maps, boxes, levels, valid, **numbers, impl="reference"),
    }
    if importlib.util.find_spec("torchvision"):
        forward["torchvision"] = partial(_torchvision_roi_align, maps, boxes, levels, valid)
        torch.testing.assert_close(forward["torchvision"](), forward["triton"]()[valid], rtol=0.02, atol=0.02)
    backward = {}
    for who in ("triton", "torchvision"):
        if who in forward:
            out = forward[who]()
            grad = torch.ones_like(out)
            backward[who] = partial(torch.autograd.grad, out, maps, grad, retain_graph=True)
    backward["triton, deterministic"] = partial(_deterministic, backward["triton"])
    name = f"roi_align of {BATCH} x {ROIS}, bfloat16"
    return {f"{name}, forward": dict(forward), f"{name}, backward": backward}


def _deterministic(run: Run) -> object:
    with determinism(True):
        return run()


def _torchvision_roi_align(maps: list[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor) -> Tensor:
    """As torchvision pools a pyramid: level by level, then copied into place. Its kernel has no bfloat16."""
    from torchvision.ops import roi_align as theirs

    image = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(levels)[valid].float()
    rois, levels = torch.cat((image[:, None], boxes[valid]), dim=1), levels[valid]
    out = maps[0].new_zeros(len(rois), maps[0].shape[1], 7, 7)
    for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        slots = torch.nonzero(levels == level).flatten()
        pooled = theirs(features.float(), rois[slots], (7, 7), 1 / stride, 2, True).to(out.dtype)
        out = out.index_copy(0, slots, pooled)
    return out


def _nms(device: str) -> dict[str, dict[str, Run]]:
    """Proposals of five levels, as the RPN makes them in inference and in training."""
    found = {}
    for count, top in ((1000, 1000), (2000, 2000)):
        boxes, _, valid = boxes_of(*CANVAS, 5 * count, device, BATCH)
        boxes = torch.where(valid[..., None], boxes, 0.0)
        rng = torch.Generator().manual_seed(6)
        scores = torch.randn(BATCH, 5 * count, generator=rng).to(device)
        groups = torch.arange(5, device=device).repeat_interleave(count).expand(BATCH, -1)
        runs: dict[str, Run] = {"triton": partial(nms, boxes, scores, groups, valid, iou=0.7, top=top)}
        if importlib.util.find_spec("torchvision"):
            given = [(boxes[b][valid[b]], scores[b][valid[b]], groups[b][valid[b]]) for b in range(BATCH)]
            runs["torchvision"] = partial(_torchvision_nms, given, top)
            index, kept = nms(boxes, scores, groups, valid, iou=0.7, top=top)
            for b, theirs in enumerate(_torchvision_nms(given, top)):
                own, its = (set(found.tolist()) for found in (index[b][kept[b]], torch.nonzero(valid[b])[theirs, 0]))
                assert len(own & its) > 0.99 * len(own | its), "answers differ"
        found[f"nms of {BATCH} x 5 x {count}"] = runs
    return found


def _torchvision_nms(given: list[tuple[Tensor, Tensor, Tensor]], top: int) -> list[Tensor]:
    """Image by image, given the boxes, scores and groups of its valid slots."""
    from torchvision.ops import batched_nms

    return [batched_nms(*own, 0.7)[:top] for own in given]


def _match(device: str) -> dict[str, dict[str, Run]]:
    boxes, _, valid = boxes_of(*CANVAS, ANCHORS, device, BATCH)
    gt, _, gt_valid = boxes_of(*CANVAS, 16, device, BATCH)
    boxes, ignore = torch.where(valid[..., None], boxes, 0.0), torch.zeros_like(gt_valid)
    runs: dict[str, Run] = {
        impl: partial(match, boxes, gt, gt_valid, ignore, impl=impl) for impl in ("triton", "reference")
    }
    return {f"match of {BATCH} x {ANCHORS} with 16": runs}


def _paste(device: str) -> dict[str, dict[str, Run]]:
    boxes, _, valid = boxes_of(*CANVAS, 100, device, 1)
    boxes = torch.where(valid[..., None], boxes, 0.0)[0]
    masks = torch.rand(100, 28, 28, generator=torch.Generator().manual_seed(7)).to(device)
    runs: dict[str, Run] = {impl: partial(paste, masks, boxes, CANVAS, impl=impl) for impl in ("triton", "reference")}
    return {"paste of 100": runs}
