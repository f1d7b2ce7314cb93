"""Greedy NMS: answers by hand, each implementation against a loop in plain Python, padding that must not matter."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.ops.dispatch import implementations, recorded_paths
from maskrcnn.ops.nms import nms

IMPLS = implementations("nms")
NAN, INF = float("nan"), float("inf")

A, A_HALF, B = (0, 0, 10, 10), (0, 0, 10, 5), (20, 0, 30, 10)  # IoU of A and A_HALF is exactly 0.5


class Case(NamedTuple):
    name: str
    boxes: list
    scores: list
    answer: list  # indices, best first
    groups: list | None = None
    iou: float = 0.5
    top: int = 4
    closed: bool = False

    def tensors(self, padding=0, poison=0.0):
        """One image, with `padding` slots that are not valid before and after, full of `poison`."""
        n = len(self.boxes)
        boxes = torch.full((1, n + 2 * padding, 4), poison)
        scores = torch.full((1, n + 2 * padding), poison)
        groups = torch.full((1, n + 2 * padding), -(1 << 62))
        valid = torch.zeros(1, n + 2 * padding, dtype=torch.bool)
        own = slice(padding, padding + n)
        boxes[0, own] = torch.tensor(self.boxes, dtype=torch.float32).reshape(n, 4)
        scores[0, own] = torch.tensor(self.scores, dtype=torch.float32)
        groups[0, own] = torch.tensor(self.groups or [0] * n, dtype=torch.int64)
        valid[0, own] = True
        return boxes, scores, groups, valid

    def numbers(self):
        return {"iou": self.iou, "top": self.top, "closed": self.closed}


CASES = [
    Case("nothing", [], [], []),
    Case("one", [A], [-3.0], [0]),
    Case("apart", [A, B], [0.1, 0.2], [1, 0]),
    Case("same box", [A, A, A], [0.1, 0.3, 0.2], [1]),
    Case("equal scores keep the first", [A, A], [0.5, 0.5], [0]),
    Case("equal scores keep their order", [A, B, (40, 0, 50, 10)], [0.5, 0.5, 0.5], [0, 1, 2]),
    Case("other groups do not suppress", [A, A, A], [0.1, 0.3, 0.2], [1, 2], groups=[7, 7, -2]),
    Case("a suppressed box suppresses no other", [A, (4, 0, 14, 10), (8, 0, 18, 10)], [0.9, 0.8, 0.7], [0, 2], iou=0.4),
    Case("at the threshold both stay", [A, A_HALF], [0.9, 0.8], [0, 1]),
    Case("closed: at the threshold one goes", [A, A_HALF], [0.9, 0.8], [0], closed=True),
    Case("closed, below the threshold", [A, A_HALF], [0.9, 0.8], [0, 1], iou=0.51, closed=True),
    Case("Detectron's (0, 0, 9, 9), a pixel added", [A, (0, 0, 9 + 1, 4 + 1)], [0.9, 0.8], [0], closed=True),
    Case("Detectron's (0, 0, 9, 9), read as it is", [(0, 0, 9, 9), (0, 0, 9, 4)], [0.9, 0.8], [0, 1], closed=True),
    Case("touching edges overlap by nothing", [A, (10, 0, 20, 10)], [0.9, 0.8], [0, 1], iou=0.0),
    Case("boxes without area suppress no other", [(5, 5, 5, 5), (5, 5, 5, 5)], [0.9, 0.8], [0, 1], iou=0.0),
    Case("only the best", [A, B, (40, 0, 50, 10)], [0.1, 0.3, 0.2], [1, 2], top=2),
    Case("none wanted", [A, B], [0.1, 0.3], [], top=0),
    Case("score of minus infinity counts", [A, B], [-INF, 0.0], [1, 0]),
    Case("NaN is no score", [A, A, B], [NAN, 0.3, 0.2], [1, 2]),
    Case("a box must be finite", [(0, 0, INF, 10), (NAN, 0, 10, 10), A], [0.9, 0.8, 0.7], [2]),
    # 0.7 in float32 lies below 0.7: 7 / 10 is not over the threshold, nor at it
    Case("just below", [A, (0, 0, 10, 7)], [0.9, 0.8], [0, 1], iou=0.7, closed=True),
]


def assert_answer(got, case, shift=0) -> None:
    index, kept = got
    found = len(case.answer)
    assert index.shape == kept.shape == (1, case.top)
    assert kept[0].tolist() == [True] * found + [False] * (case.top - found)
    assert index[0].tolist() == [i + shift for i in case.answer] + [0] * (case.top - found)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nms_gives_the_known_answer(case, impl) -> None:
    with recorded_paths() as paths:
        got = nms(*case.tensors(), **case.numbers(), impl=impl)
    assert paths == [f"nms:{impl}"]
    assert_answer(got, case)


@pytest.mark.parametrize("poison", [NAN, INF, -INF, 1e38])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_padding_does_not_matter(case, impl, poison) -> None:
    assert_answer(nms(*case.tensors(3, poison), **case.numbers(), impl=impl), case, shift=3)


def crowd(rng: np.random.Generator, B=3, N=120):
    """Boxes that overlap a lot, on whole pixels so that overlaps tie, with scores that tie."""
    corner = rng.integers(0, 40, (B, N, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 20, (B, N, 2))], 2)
    return (
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(rng.integers(0, 30, (B, N)) / 8, dtype=torch.float32),
        torch.tensor(rng.integers(0, 3, (B, N))),
        torch.tensor(rng.random((B, N)) < 0.8),
    )


def greedy(boxes, scores, groups, valid, iou, top, closed):
    """The textbook's algorithm in Python's numbers; whole pixels make every area exact."""
    kept = []
    for i in sorted((i for i in range(len(scores)) if valid[i]), key=lambda i: (-scores[i], i)):
        for k in kept:
            w = max(min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0]), 0)
            h = max(min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1]), 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[k])]
            union = sum(areas) - w * h
            overlap = float(np.float32(w * h) / np.float32(union)) if union else math.nan
            if groups[i] == groups[k] and (overlap >= iou if closed else overlap > iou):
                break
        else:
            kept.append(i)
    return kept[:top]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("detectron", [False, True])
@pytest.mark.parametrize(("iou", "top"), [(0.0, 50), (0.3, 20), (0.5, 200), (1.0, 200)])
def test_nms_is_the_textbooks(rng, iou, top, detectron, impl) -> None:
    numbers = {"iou": iou, "top": top, "closed": detectron}
    boxes, *rest = crowd(rng)
    batch = boxes + float(detectron) * torch.tensor([0.0, 0, 1, 1]), *rest
    index, kept = nms(*batch, **numbers, impl=impl)
    for b in range(len(index)):
        wanted = greedy(*(tensor[b].tolist() for tensor in batch), **numbers)
        assert index[b, kept[b]].tolist() == wanted


@pytest.mark.parametrize("impl", IMPLS)
def test_an_image_does_not_depend_on_the_others_in_its_batch(rng, impl) -> None:
    batch = crowd(rng)
    together = nms(*batch, iou=0.4, top=30, impl=impl)
    for b in range(3):
        alone = nms(*(tensor[b : b + 1] for tensor in batch), iou=0.4, top=30, impl=impl)
        assert torch.equal(alone[0][0], together[0][b])
        assert torch.equal(alone[1][0], together[1][b])


@pytest.mark.parametrize("impl", IMPLS)
def test_survivors_stay_survivors(rng, impl) -> None:
    """A second NMS changes nothing: no survivor suppresses another."""
    boxes, scores, groups, valid = crowd(rng)
    index, kept = nms(boxes, scores, groups, valid, iou=0.3, top=60, impl=impl)
    left = boxes.gather(1, index[..., None].expand(-1, -1, 4)), scores.gather(1, index), groups.gather(1, index), kept
    again, still = nms(*left, iou=0.3, top=60, impl=impl)
    assert torch.equal(still, kept)
    assert torch.equal(again[kept], torch.arange(60).expand(3, 60)[kept])


@pytest.mark.parametrize("impl", IMPLS)
def test_other_layouts_and_dtypes(rng, impl) -> None:
    """Slices, transposes, and scores in half precision or with a gradient give the same answer."""
    boxes, scores, groups, valid = crowd(rng)
    wanted = nms(boxes, scores, groups, valid, iou=0.5, top=40, impl=impl)
    odd = boxes.transpose(0, 2).contiguous().transpose(0, 2), scores.half().requires_grad_(), groups.int()
    got = nms(*odd, valid.t().contiguous().t(), iou=0.5, top=40, impl=impl)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])


def test_an_empty_batch() -> None:
    for impl in IMPLS:
        index, kept = nms(
            torch.zeros(0, 5, 4), torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.int64),
            torch.zeros(0, 5, dtype=torch.bool), iou=0.5, top=3, impl=impl,
        )  # fmt: skip
        assert index.shape == kept.shape == (0, 3)


@pytest.mark.parametrize("wrong", [{"top": -1, "iou": 0.5}, {"top": 1, "iou": NAN}])
def test_impossible_numbers_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="nms"):
        nms(*CASES[1].tensors(), **wrong)


class NoLook(TorchDispatchMode):
    """Refuses every operation whose result's shape or control flow depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select"), name
        return func(*args, **(kwargs or {}))


def test_the_reference_never_looks_at_values(rng) -> None:
    with NoLook():
        nms(*crowd(rng), iou=0.5, top=10, impl="reference")


def test_torchvision_agrees(rng) -> None:
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores, groups, _ = crowd(rng, B=1, N=400)
    scores = torch.tensor(rng.permutation(400) / 400, dtype=torch.float32)[None]  # torchvision's sort may reorder ties
    for iou in (0.3, 0.5, 0.7):
        wanted = ops.batched_nms(boxes[0], scores[0], groups[0], iou)
        index, kept = nms(boxes, scores, groups, torch.ones_like(groups, dtype=torch.bool), iou=iou, top=400)
        assert index[0, kept[0]].tolist() == wanted.tolist()
