"""If nobody may look at values, nobody waits for a device: both steps on tensors without values.

On such a tensor whatever asks for a value is an error, and whatever makes a shape depend on one; so is a tensor that
was there before the step, as a table of constants would be. What copies between the host and a device is refused here.
The kernels are those of a GPU, which need no values to say what they would give.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from maskrcnn.accelerate.prepare import prepare
from maskrcnn.config import TTA, Config, TrainConfig
from maskrcnn.model.tta import Views
from maskrcnn.ops import dispatch
from maskrcnn.ops.dispatch import recorded_paths
from maskrcnn.training.log import Meter
from maskrcnn.training.loop import train_step
from maskrcnn.training.optim import build_optimizer
from maskrcnn.training.state import Average, Progress, State
from maskrcnn.training.task import Task
from tests.model.small import decided, drawn_images, objects, small
from tests.training.stand_in import make_run

pytest.importorskip("triton")

KEYPOINTS: dict[str, Any] = {"keypoint_head": {"enabled": True}}
CONFIGS = {
    "FPN": small(),
    "keypoints": small(**KEYPOINTS),
    "C4": small("R-18-C4"),
    "adaptive samples": small(pool={"sampling": 0}),
    "hard examples": small(box_head={"ohem": True}),
    "masks from bitmaps": small(mask_head={"target": "soft"}),
}


class NoCopies(TorchFunctionMode):
    """Refuses tensors made of Python's numbers, and tensors brought elsewhere: the host would wait for either."""

    MADE_OF_NUMBERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
    LOOKS = (Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.MADE_OF_NUMBERS, f"{func.__name__} copies from the host"
        assert func not in self.LOOKS, f"{func.__name__} waits for a value"
        if func is Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, list) for part in index), "a list as index is copied from the host"
        out = func(*args, **(kwargs or {}))
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            assert out.device == args[0].device, f"{func.__name__} copies between devices"
        return out


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch) -> None:
    """Tensors lie on the CPU, because without a GPU torch has no other; the kernels are the GPU's nevertheless."""
    monkeypatch.setitem(dispatch._KERNELS_OF, "cpu", "triton")
    monkeypatch.setattr(dispatch, "_READABLE", set())


def hollow(value: Any) -> Any:
    """A tensor without values like the one given; a module or a bundle of such. Within a `FakeTensorMode`."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    if not isinstance(value, nn.Module):
        return type(value)(*(None if field is None else hollow(field) for field in value))
    for module in value.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                module._parameters[name] = nn.Parameter(hollow(tensor), tensor.requires_grad)
        for name, tensor in module._buffers.items():
            module._buffers[name] = None if tensor is None else hollow(tensor)
    return value


@pytest.mark.parametrize("name", CONFIGS)
def test_detecting_never_waits(name) -> None:
    model = prepare(decided(CONFIGS[name]), fuse=False)
    with FakeTensorMode(), torch.no_grad():
        model, images = hollow(model), hollow(drawn_images())
        with NoCopies(), recorded_paths() as paths:
            found = model.detect(images)
    slots = CONFIGS[name].box_head.max_detections
    assert set(paths) == {"nms:triton", "roi_align:triton"}
    assert found.boxes.shape == (2, slots, 4)
    assert found.masks is not None
    assert found.masks.shape[:2] == (2, slots)


def test_several_views_never_wait() -> None:
    model = prepare(decided(CONFIGS["keypoints"]), fuse=False)
    with FakeTensorMode(), torch.no_grad():
        first, *others = [hollow(drawn_images()) for _ in range(4)]
        backend = Views(hollow(model), TTA((1.0, 0.5)), [(0, 1), (3, 4)])
        with NoCopies():
            found = backend.detect(first._replace(views=tuple(others)))
    assert found.masks is not None
    assert found.keypoints is not None


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_never_waits(name, tmp_path, monkeypatch) -> None:
    """The loop's own: bfloat16, clipping, the update and the averaged weights, with what it does on a GPU."""
    monkeypatch.setattr(Meter, "check", lambda self: None)  # a GPU's losses are looked at when a record is due
    config = TrainConfig(ema=0.99)
    run = replace(make_run(tmp_path, precision="bf16"), config=Config(CONFIGS[name], config))
    model = decided(CONFIGS[name]).train()
    task, image_ids = Task(run, model), torch.tensor([11, 12])
    with FakeTensorMode():
        model, images, gt = (hollow(value) for value in (model, drawn_images(), objects()))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        state = State(model, build_optimizer(model, config), Average(model, config.ema), scaler, Progress())
        with NoCopies(), recorded_paths() as paths:
            train_step(state, task, iter([((images, gt), image_ids)]), Meter(run), run)
    assert {"nms:triton", "roi_align:triton", "match:triton"} <= set(paths)
    assert not any(path.endswith("numba") for path in paths)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


CONSTANT = torch.tensor([1.0, 2.0, 3.0])
LOOKS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x[0]),
    "int": lambda x: int(x[0]),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "list": lambda x: x[[0, 1]],
    "another device": lambda x: x.to("meta"),
    "tensor": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "new_tensor": lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
    "constant": lambda x: x + CONSTANT,
}


@pytest.mark.parametrize("name", LOOKS)
def test_the_guard_refuses(name) -> None:
    refusals = (AssertionError, DataDependentOutputException, DynamicOutputShapeException)
    with FakeTensorMode():
        x = hollow(torch.ones(3))
        with NoCopies(), pytest.raises(refusals):
            LOOKS[name](x)
