"""R-50-FPN on 800 x 1344, ours and the rivals', with the same weights, the same images and the same objects.

The weights are the goldens' drawn ones, so that nothing is downloaded. A call begins with uint8 pixels on the GPU, on
their canvas, and ends with boxes, scores, labels and 28 x 28 masks there: nobody resizes, pastes or copies to the host.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn.data.bitmaps import windows
from maskrcnn.model.build import build
from maskrcnn.model.losses import total
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.structures import GroundTruth, Images
from maskrcnn.weights.checkpoint import restore
from maskrcnn.weights.read import Contents, to_checkpoint
from tests.golden.drawn_weights import checkpoint as draw

GOLDENS = Path(__file__).parents[1] / "tests" / "golden"
IMAGE = (800, 1333)
CANVAS = (800, 1344)
OBJECTS, SLOTS = 12, 16  # of a training image
LEARNING_RATE = 1e-5  # drawn weights should not explode while they are timed
BF16 = {"device_type": "cuda", "dtype": torch.bfloat16}


class Batch(NamedTuple):
    """The same images and objects for everybody."""

    images: Images
    gt: GroundTruth
    targets: list[dict[str, Tensor]]  # torchvision's: masks as bitmaps of the image


def weights(origin: str) -> dict[str, Tensor]:
    """The checkpoint of `tests/golden/<origin>.keys.json`, drawn; without what only live batch norms have."""
    drawn = draw(json.loads((GOLDENS / f"{origin}.keys.json").read_text()))
    kept = {name: array for name, array in drawn.items() if not name.endswith("num_batches_tracked")}
    return {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in kept.items()}


def ours(device: str) -> MaskRCNN:
    """Our model with torchvision's weights, and so with its numbers: proposals, samples, thresholds."""
    found = to_checkpoint(Contents(weights("torchvision-maskrcnn_resnet50_fpn"), {}), "drawn weights")
    assert (found.config.backbone.norm, found.config.backbone.freeze_at) == ("frozen_bn", 2)  # in training, as theirs
    model = build(found.config, skip_empty=False)
    restore(model, found.state, "drawn weights")
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def torchvision_model(device: str) -> nn.Module:
    """torchvision's model, channels-last, without the resizing before it and the pasting after it."""
    from torchvision.models import resnet50
    from torchvision.models.detection import MaskRCNN as Theirs
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.misc import FrozenBatchNorm2d

    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    model = Theirs(_resnet_fpn_extractor(body, 3), num_classes=91)
    model.load_state_dict(weights("torchvision-maskrcnn_resnet50_fpn"))
    overwrite_eps(model, 0.0)  # as its own loader of these weights does
    model.transform = _Prepared()
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Prepared(nn.Module):
    """torchvision's transform for images that lie on their canvas already: it normalises them together."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[Any, Any]:
        from torchvision.models.detection.image_list import ImageList

        x = (torch.stack(images).float() / 255 - self.mean) / self.std
        x[..., IMAGE[1] :] = 0
        return ImageList(x.contiguous(memory_format=torch.channels_last), [IMAGE] * len(images)), targets

    def postprocess(self, result: Any, image_shapes: Any, original_sizes: Any) -> Any:
        return result


def detectron2_model(device: str) -> nn.Module:
    """Detectron2's, with its own drawn weights: other names and numbers, so its answers are not compared."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    config.MODEL.DEVICE = device
    model = build_model(config)
    model.load_state_dict(weights("detectron2-mask_rcnn_R_50_FPN"), strict=False)
    return model.to(memory_format=torch.channels_last)


def make_batch(size: int, device: str) -> Batch:
    """`size` images of drawn shapes, each shifted and mirrored in its own way, and objects in each."""
    with Image.open(GOLDENS / "images" / "shapes-375x500.png") as file:
        image = np.asarray(file.convert("RGB").resize(IMAGE[::-1], Image.Resampling.BILINEAR))
    pixels = torch.zeros(size, 3, *CANVAS, dtype=torch.uint8)
    for b in range(size):
        shifted = np.roll(image, (97 * b, 211 * b), (0, 1))[:, :: -1 if b % 2 else 1]
        pixels[b, :, :, : IMAGE[1]] = torch.from_numpy(np.ascontiguousarray(shifted)).permute(2, 0, 1)
    sizes = torch.tensor([IMAGE] * size)
    images = Images(pixels, sizes, sizes, torch.ones(size, 2), torch.arange(size))
    rng = torch.Generator().manual_seed(0)
    boxes = torch.zeros(size, SLOTS, 4)
    extent = 32 * 12 ** torch.rand(size, OBJECTS, 2, generator=rng)
    corner = torch.rand(size, OBJECTS, 2, generator=rng) * (torch.tensor(IMAGE[::-1]) - extent)
    boxes[:, :OBJECTS] = torch.cat((corner, corner + extent), dim=2)
    labels = torch.randint(0, 90, (size, SLOTS), generator=rng)
    valid = (torch.arange(SLOTS) < OBJECTS).expand(size, -1).clone()
    drawn = [_ellipse(box) for box in boxes[:, :OBJECTS].flatten(0, 1).tolist()]
    bits, frames = windows(drawn, np.arange(IMAGE[0]), np.arange(IMAGE[1]))  # a bit a pixel: torchvision's rule
    masks, places = torch.zeros(size, SLOTS, *bits.shape[1:], dtype=torch.bool), boxes.clone()
    masks[:, :OBJECTS] = torch.from_numpy(bits).unflatten(0, (size, OBJECTS))
    places[:, :OBJECTS] = torch.from_numpy(frames).unflatten(0, (size, OBJECTS))
    gt = GroundTruth(boxes, labels, masks, places, None, torch.zeros_like(valid), valid)
    images, gt = to_device(images, device), to_device(gt, device)
    bitmaps = torch.from_numpy(np.stack(drawn)).unflatten(0, (size, OBJECTS)).to(device, torch.uint8)
    own = zip(gt.boxes[:, :OBJECTS], gt.labels[:, :OBJECTS] + 1, bitmaps, strict=True)
    return Batch(images, gt, [{"boxes": box, "labels": label, "masks": bitmap} for box, label, bitmap in own])


def _ellipse(box: list[float]) -> np.ndarray:
    """The image's pixels within the ellipse of a box, bool."""
    x1, y1, x2, y2 = box
    y = (np.arange(IMAGE[0])[:, None] + 0.5 - (y1 + y2) / 2) / (y2 - y1)
    x = (np.arange(IMAGE[1]) + 0.5 - (x1 + x2) / 2) / (x2 - x1)
    return y * y + x * x < 0.25


def to_device(bundle: Any, device: str) -> Any:
    """A bundle of tensors, some of them perhaps None, on `device`."""
    return type(bundle)(*(field.to(device) if isinstance(field, torch.Tensor) else field for field in bundle))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """The same fused SGD for everybody."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trainable, lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4, fused=True)


def training_step(
    model: nn.Module, loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer
) -> Callable[..., Tensor]:
    """Forward in bf16, backward, update; `loss` is called with what the step is called with."""
    model.train()

    def step(*given: Any) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(**BF16):
            value = loss(*given)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def our_loss(model: MaskRCNN) -> Callable[[Images, GroundTruth], Tensor]:
    """The sum of the terms, as the training loop adds them."""
    return lambda images, gt: total(model.loss(images, gt))


def their_loss(model: nn.Module) -> Callable[..., Tensor]:
    return lambda images, targets: torch.stack(list(model(images, targets).values())).sum()
