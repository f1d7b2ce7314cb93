"""Structures without a golden: Detectron2's ResNet-101, ResNeXt-101 and group norms, written down as plain functions.

The reference draws each tensor when it first asks for it, under Detectron2's name and in the shape that it needs: one
pass makes a checkpoint and the answers to it.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.model.build import build
from maskrcnn.structures import Images
from maskrcnn.weights.checkpoint import restore
from maskrcnn.weights.interop.origin import Contents
from maskrcnn.weights.read import recognise, to_whole
from tests.golden.drawn_weights import tensor

CLASSES = 80
MEAN = torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)  # BGR


class Structure(NamedTuple):
    blocks: tuple[int, int, int, int]
    norm: str = "BN"
    groups: int = 1
    width_per_group: int = 64
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


STRUCTURES = {
    "R-101-FPN": Structure((3, 4, 23, 3)),
    "X-101-32x8d-FPN": Structure((3, 4, 23, 3), "BN", 32, 8, (57.375, 57.12, 58.395)),
    "R-50-FPN": Structure((3, 4, 6, 3), "GN"),
}


class Reference:
    """A Mask R-CNN of Detectron2 in functions of F; `state` is the checkpoint that it has asked for."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self.state = structure, dict[str, Tensor]()

    def ask(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            self.state[name] = torch.from_numpy(np.asarray(tensor(name, shape), dtype=np.float32))
        return self.state[name]

    def normed(self, x: Tensor, name: str) -> Tensor:
        c = x.shape[1]
        weight, bias = self.ask(f"{name}.weight", c), self.ask(f"{name}.bias", c)
        if self.structure.norm == "GN":
            parts = x.unflatten(1, (32, -1)).flatten(2).double()
            parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
            return parts.float().view_as(x) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
        mean, var = self.ask(f"{name}.running_mean", c), self.ask(f"{name}.running_var", c)
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    def conv(
        self, x: Tensor, name: str, out: int, size: int, *, stride: int = 1, groups: int = 1, norm: bool = True
    ) -> Tensor:
        weight = self.ask(f"{name}.weight", out, x.shape[1] // groups, size, size)
        bias = None if norm else self.ask(f"{name}.bias", out)
        x = F.conv2d(x, weight, bias, stride, size // 2, groups=groups)
        return self.normed(x, f"{name}.norm") if norm else x

    def linear(self, x: Tensor, name: str, out: int) -> Tensor:
        return F.linear(x, self.ask(f"{name}.weight", out, x.shape[1]), self.ask(f"{name}.bias", out))

    def block(self, x: Tensor, name: str, stage: int, first: bool) -> Tensor:
        """Residual networks of MSRA stride in the first 1x1, ResNeXts and those of group norms in the 3x3."""
        s = self.structure
        stride = 2 if first and stage > 0 else 1
        early = s.groups == 1 and s.norm == "BN"
        middle, out = s.groups * s.width_per_group * 2**stage, 256 * 2**stage
        y = F.relu(self.conv(x, f"{name}.conv1", middle, 1, stride=stride if early else 1))
        y = F.relu(self.conv(y, f"{name}.conv2", middle, 3, stride=1 if early else stride, groups=s.groups))
        y = self.conv(y, f"{name}.conv3", out, 1)
        return F.relu(y + (self.conv(x, f"{name}.shortcut", out, 1, stride=stride) if first else x))

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """P2 .. P6 of RGB pixels."""
        x = (pixels.flip(1) - MEAN) / torch.tensor(self.structure.std).view(1, 3, 1, 1)
        x = F.max_pool2d(F.relu(self.conv(x, "backbone.bottom_up.stem.conv1", 64, 7, stride=2)), 3, 2, 1)
        maps = []
        for stage, blocks in enumerate(self.structure.blocks):
            for n in range(blocks):
                x = self.block(x, f"backbone.bottom_up.res{stage + 2}.{n}", stage, n == 0)
            maps.append(x)
        norm = self.structure.norm == "GN"  # frozen batch norms are the backbone's alone
        inner, levels = None, []
        for i in (5, 4, 3, 2):
            lateral = self.conv(maps[i - 2], f"backbone.fpn_lateral{i}", 256, 1, norm=norm)
            inner = lateral if inner is None else lateral + F.interpolate(inner, scale_factor=2, mode="nearest")
            levels.insert(0, self.conv(inner, f"backbone.fpn_output{i}", 256, 3, norm=norm))
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def objectness(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B A h w] and deltas [B 4A h w]."""
        name = "proposal_generator.rpn_head"
        x = F.relu(self.conv(level, f"{name}.conv", 256, 3, norm=False))
        logits = self.conv(x, f"{name}.objectness_logits", 3, 1, norm=False)
        return logits, self.conv(x, f"{name}.anchor_deltas", 12, 1, norm=False)

    def boxes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [N K+1] and deltas [N 4K] of pooled features."""
        convs = 4 if self.structure.norm == "GN" else 0
        for i in range(convs):
            x = F.relu(self.conv(x, f"roi_heads.box_head.conv{i + 1}", 256, 3))
        x = x.flatten(1)
        for i in range(1 if convs else 2):
            x = F.relu(self.linear(x, f"roi_heads.box_head.fc{i + 1}", 1024))
        name = "roi_heads.box_predictor"
        return self.linear(x, f"{name}.cls_score", CLASSES + 1), self.linear(x, f"{name}.bbox_pred", 4 * CLASSES)

    def masks(self, x: Tensor) -> Tensor:
        """Logits [N K 28 28] of pooled features."""
        name = "roi_heads.mask_head"
        for i in range(4):
            x = F.relu(self.conv(x, f"{name}.mask_fcn{i + 1}", 256, 3, norm=self.structure.norm == "GN"))
        weight, bias = self.ask(f"{name}.deconv.weight", 256, 256, 2, 2), self.ask(f"{name}.deconv.bias", 256)
        x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2))
        return self.conv(x, f"{name}.predictor", CLASSES, 1, norm=False)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_layer_answers_as_in_detectron2(name: str, rng: np.random.Generator) -> None:
    reference = Reference(STRUCTURES[name])
    pixels = torch.from_numpy(rng.uniform(0, 255, (1, 3, 64, 96)).astype(np.float32))
    pooled, detail = (torch.from_numpy(rng.normal(size=(3, 256, s, s)).astype(np.float32)) for s in (7, 14))
    levels = reference.pyramid(pixels)
    objectness = [reference.objectness(level) for level in levels]
    boxes, masks = reference.boxes(pooled), reference.masks(detail)

    found = to_whole(recognise(Contents(dict(reference.state), {}), name))
    assert found.config.name == name
    model = build(found.config)
    restore(model, found.state, name)
    model.eval()
    sizes = torch.tensor([[64, 96]])
    images = Images(pixels, sizes, sizes, torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))
    labels = torch.tensor([[0, 41, CLASSES - 1]])
    with torch.inference_mode():
        pyramid = model.pyramid(images)
        rpn = model.rpn(pyramid, images)
        logits, deltas = model.box_head(pooled[None])
        assert model.mask_head is not None
        chosen = model.mask_head(detail[None], labels)
    for ours, theirs in zip(pyramid, levels, strict=True):
        close(ours, theirs)
    close(rpn.logits, torch.cat([a.permute(0, 2, 3, 1).flatten(1) for a, _ in objectness], 1))
    close(rpn.deltas, torch.cat([d.permute(0, 2, 3, 1).reshape(1, -1, 4) for _, d in objectness], 1))
    close(logits[0], boxes[0])
    close(deltas[0].flatten(1), boxes[1])
    close(chosen[0], masks[torch.arange(3), labels[0]])


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) <= 1e-4
