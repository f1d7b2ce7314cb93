"""The engine is the seam: any backend's detections become results; what only a PyTorch model can do says so."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.canvas import join
from maskrcnn.categories import Category
from maskrcnn.config import ONE_VIEW, TTA, BoxArithmetic, InputConfig, ModelConfig
from maskrcnn.device import Precision
from maskrcnn.engine import Backend, Engine, open_model
from maskrcnn.errors import ConfigError
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.model.tta import Views
from maskrcnn.ops.boxes import to_canvas
from maskrcnn.predict import Predictor
from maskrcnn.structures import Detections, Images, Proposals
from tests.scenes import TWO_APART
from tests.tiny import CATEGORIES, write_tiny_checkpoint

PACKAGE = Path(__file__).resolve().parents[1] / "maskrcnn"
MOST_FRAMES = 5  # between `predict` and an operator, the operator included


class Written:
    """A backend without a model: it keeps what it is handed, and gives back detections written by hand."""

    device = torch.device("cpu")

    def __init__(self, precision: Precision = "fp32", views: TTA = ONE_VIEW) -> None:
        self.precision: Precision = precision
        self.views = views
        self.seen: list[Images] = []
        self.context: list[tuple[bool, bool]] = []  # inference mode, autocast

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        assert proposals is None
        self.seen.append(images)
        self.context.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        boxes = torch.tensor([[3.0, 6, 33, 24], [-5.0, 12, 90, 21], [70.0, 0, 80, 9], [0.0, 0, 60, 30]])
        return Detections(
            boxes=boxes.repeat(len(images.pixels), 1, 1),
            scores=torch.tensor([[0.9, 0.8, 0.7, 0.6]]).repeat(len(images.pixels), 1),
            labels=torch.tensor([[1, 0, 0, 0]]).repeat(len(images.pixels), 1),
            masks=torch.ones(len(images.pixels), 4, 28, 28),
            keypoints=None,
            valid=torch.tensor([[True, True, True, False]]).repeat(len(images.pixels), 1),
        )


def engine_over(backend: Backend) -> Engine:
    """For images of 10 x 20 pixels, which it enlarges threefold."""
    config = replace(ModelConfig(), classes=2, input=InputConfig(min_size=30, max_size=100))
    return Engine(backend, config, (Category(4, "cat"), Category(9, "dog")))


ARRAY = np.full((10, 20, 3), 7, np.uint8)


def test_any_backends_detections_become_results_in_pixels_of_the_image() -> None:
    backend = Written()
    engine = engine_over(backend)
    images = engine.prepare(ARRAY)
    assert (images.sizes.tolist(), images.scales.tolist()) == ([[30, 60]], [[3, 3]])
    (result,) = engine.results(images, [Path("a.png")], image_ids=[5])
    np.testing.assert_allclose(result.boxes, [[1, 2, 11, 8], [0, 4, 20, 7]])  # cut to the image; one lies beyond it
    assert (result.names, result.size, result.path) == (["dog", "cat"], (10, 20), Path("a.png"))
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in result.to_coco()] == [
        (5, 9, [1, 2, 10, 6]),
        (5, 4, [0, 4, 20, 3]),
    ]
    assert result.masks is not None
    assert result.masks.sum(axis=(1, 2)).tolist() == [60, 60]
    assert backend.context == [(True, False)]


def test_a_batch_has_a_result_for_each_image() -> None:
    engine = engine_over(Written())
    other = np.zeros((5, 10, 3), np.uint8)
    batch = join([engine.prepare(ARRAY), engine.prepare(other)])
    first, second = engine.results(batch, originals=[ARRAY, other])
    np.testing.assert_allclose(second.boxes, first.boxes / 2)  # the same canvas, of an image half as large
    assert (second.size, second.image is other, first.path) == ((5, 10), True, None)


def test_a_backend_computes_in_its_precision_and_sees_the_views_that_it_wants() -> None:
    backend = Written("bf16", TTA((1.0, 0.5)))
    engine = engine_over(backend)
    engine.results(engine.prepare(ARRAY))
    assert backend.context == [(True, True)]
    assert [view.sizes.tolist() for view in backend.seen[0].views] == [[[15, 30]], [[30, 60]], [[15, 30]]]


WISHES: dict[str, Callable[[Engine], Any]] = {
    "another score_threshold or max_detections": lambda engine: engine.limited(max_detections=1),
    "test-time augmentation": lambda engine: engine.seeing(True),
    "proposals": lambda engine: engine.propose(engine.prepare(ARRAY)),
}


@pytest.mark.parametrize("wish", WISHES)
def test_what_needs_a_pytorch_model_is_refused_in_one_sentence(wish: str) -> None:
    with pytest.raises(ConfigError) as refused:
        WISHES[wish](engine_over(Written()))
    assert str(refused.value) == f"only a plain PyTorch model can do this: {wish}; this one is Written"


def test_a_wish_for_what_is_so_already_is_granted_to_every_backend() -> None:
    engine = engine_over(Written())
    assert engine.seeing(False) is engine
    assert engine.limited() is engine
    assert engine.limited(max_detections=engine.config.box_head.max_detections) is engine


@pytest.mark.parametrize("wrong", [{"score_threshold": 1.5}, {"score_threshold": -0.1}, {"max_detections": 0}])
def test_impossible_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        engine_over(Written()).limited(**wrong)


# --- over a PyTorch model --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MaskRCNN:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("engine") / "model.safetensors")
    model, categories, _ = open_model(path, device="cpu")
    assert (categories, model.device.type, model.training) == (CATEGORIES, "cpu", False)
    return model


def test_backends_are_known_by_what_they_have(model: MaskRCNN) -> None:
    assert isinstance(Written(), Backend)
    assert isinstance(Engine.of(model, CATEGORIES).backend, Backend)
    assert isinstance(Engine.of(model, CATEGORIES, tta=True).backend, Backend)
    assert not isinstance(torch.nn.Identity(), Backend)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_leaves_the_model_as_it_is(model: MaskRCNN, precision: str) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules, wanted = [type(module) for module in model.modules()], [p.requires_grad for p in model.parameters()]
    engine = Engine.of(model, CATEGORIES, precision)
    engine.results(engine.prepare(TWO_APART.pixels))
    assert isinstance(engine.backend, MaskRCNN)
    assert (engine.backend.precision, model.precision) == (precision, "fp32")
    assert (engine.backend.training, model.training) == (False, True)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before)
    assert [type(module) for module in model.modules()] == modules
    assert [p.requires_grad for p in model.parameters()] == wanted
    model.eval()


def test_other_limits_make_another_engine_over_the_same_weights(model: MaskRCNN) -> None:
    engine = Engine.of(model, CATEGORIES, "fp32")
    few = engine.limited(max_detections=2)
    assert (few.config.box_head.max_detections, engine.config.box_head.max_detections) == (2, 20)
    images = engine.prepare(TWO_APART.pixels)
    every, best = engine.results(images)[0], few.results(images)[0]
    assert len(every) > len(best) == 2
    np.testing.assert_array_equal(best.boxes, every.boxes[:2])
    assert isinstance(few.backend, MaskRCNN)
    assert isinstance(engine.backend, MaskRCNN)
    assert few.backend.box_head is engine.backend.box_head
    seeing = few.seeing(TTA((1.0, 0.5)))
    assert isinstance(seeing.backend, Views)
    assert len(seeing.results(seeing.prepare(TWO_APART.pixels))[0]) == 2
    with pytest.raises(ConfigError, match="this one is Views"):  # limits come first
        seeing.limited(max_detections=1)


def test_more_detections_than_proposals_raise_the_proposals(model: MaskRCNN) -> None:
    engine = Engine.of(model, CATEGORIES, "fp32")
    rpn = engine.config.rpn
    most = max(rpn.post_nms_test, rpn.pre_nms_test) + 500
    raised = engine.limited(max_detections=most).config.rpn
    assert raised == replace(rpn, post_nms_test=most, pre_nms_test=most)
    assert engine.limited(max_detections=rpn.post_nms_test).config.rpn == rpn


@pytest.mark.parametrize("inclusive", [False, True])
def test_proposals_are_in_pixels_of_the_image_and_come_back_by_scaling(model: MaskRCNN, inclusive: bool) -> None:
    """Also those of Detectron's models: training scales the boxes in a file as it scales the objects."""
    backend = Engine.of(model, CATEGORIES, "fp32").backend
    assert isinstance(backend, MaskRCNN)
    enlarged = InputConfig(min_size=100, max_size=200)
    backend.config = replace(model.config, box_arithmetic=BoxArithmetic(inclusive), input=enlarged)
    engine = Engine(backend, backend.config, CATEGORIES)
    images = engine.prepare(TWO_APART.pixels)
    found = engine.propose(images)
    with torch.inference_mode():
        on_canvas = backend.propose(images).boxes
    torch.testing.assert_close(to_canvas(found.boxes, images.scales, inclusive=False), on_canvas)
    height, width = TWO_APART.size
    assert (found.boxes <= torch.tensor([width, height, width, height])).all()
    assert found.valid.any()


@pytest.mark.parametrize("op", ["nms", "roi_align"])
def test_an_operator_is_at_most_five_frames_below_predict(
    op: str, model: MaskRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the functions between, those whose file lies in the package; `nn.Module`'s own calls do not count."""
    module = sys.modules[f"maskrcnn.ops.{op}"]
    stacks: list[list[str]] = []
    which = module.which

    def recorded(*arguments: Any) -> str:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_name != op:  # from a helper of the operator to the operator
            frame = frame.f_back
        stack = []
        while frame is not None:  # `predict` itself has returned: the images come from its iterator
            if Path(frame.f_code.co_filename).resolve().is_relative_to(PACKAGE):
                stack.append(frame.f_code.co_name)
            frame = frame.f_back
        stacks.append(stack)
        return which(*arguments)

    monkeypatch.setattr(module, "which", recorded)
    (result,) = Predictor(model, CATEGORIES).predict(TWO_APART.pixels, score_threshold=0.05)
    assert len(result) > 0
    assert len(stacks) == 2  # proposals and detections; features of boxes and of masks
    for stack in stacks:
        assert stack[0] == op
        assert "detect" in stack
        assert len(stack) <= MOST_FRAMES, " < ".join(stack)
