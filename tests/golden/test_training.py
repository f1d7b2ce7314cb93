"""The same losses and gradients as torchvision and Detectron2, with every anchor and RoI that counts sampled."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.categories import Category
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import EvalLoader
from maskrcnn.model.build import build
from maskrcnn.model.losses import total
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.structures import GroundTruth, Losses
from maskrcnn.weights.checkpoint import Checkpoint, restore
from maskrcnn.weights.interop.write import to_foreign
from tests.golden.goldens import FOLDER, cases, checkpoint, golden

QUICK = {"detectron2-mask_rcnn_R_50_FPN-train-shapes-375x500"}
# torchvision's keypoint models draw the shorter side anew for each image of a training; the losses tell which it was.
SIDES = {
    ("torchvision-keypointrcnn_resnet50_fpn", "shapes-375x500"): ("input.min_size=736",),
    ("torchvision-keypointrcnn_resnet50_fpn", "shapes-640x427"): ("input.min_size=672",),
}
EVERYTHING = ("rpn.samples=10000000", "box_head.samples=10000000")
FROZEN = ("backbone.norm=frozen_bn", "backbone.norm_eps=1e-5")
NAMES = {  # of our terms, in either framework
    "rpn_class": ("loss_objectness", "loss_rpn_cls"),
    "rpn_box": ("loss_rpn_box_reg", "loss_rpn_loc"),
    "box_class": ("loss_classifier", "loss_cls"),
    "box_box": ("loss_box_reg",),
    "mask": ("loss_mask",),
    "keypoint": ("loss_keypoint",),
}


@pytest.mark.parametrize(("model", "name"), cases(train=True, quick=QUICK))
def test_losses_and_gradients_are_the_same(model: str, name: str) -> None:
    truth = golden(f"{model}-train-{name}")
    frozen = FROZEN if model.startswith("torchvision") else ()
    found = checkpoint(model, EVERYTHING + frozen + SIDES.get((model, name), ()))
    network = build(found.config)
    restore(network, found.state, model)
    network.train()
    losses = forward(network, found, name)
    total(losses).backward()
    check_losses(losses, truth)
    check_gradients(network, found, truth, model.partition("-")[0])


def forward(network: torch.nn.Module, found: Checkpoint, name: str) -> Losses:
    keypoints = found.config.keypoint_head.enabled
    data = read_dataset(FOLDER / "instances.json", keypoints=keypoints)
    index = [data.record(i).path.stem for i in range(len(data))].index(name)
    (batch,) = EvalLoader(data.subset([index]), found.config, gt=True)
    gt = batch.gt
    assert gt is not None
    return cast(MaskRCNN, network).loss(batch.images, relabelled(gt, data.categories, found.categories))


def relabelled(gt: GroundTruth, given: Sequence[Category], known: Sequence[Category]) -> GroundTruth:
    """The classes of the data by their ids among the model's; what the model does not know is no object."""
    place = {category.id: label for label, category in enumerate(known)}
    labels = torch.tensor([place.get(category.id, -1) for category in given])[gt.labels]
    return gt._replace(labels=labels.clamp(min=0), valid=gt.valid & (labels >= 0))


def check_losses(losses: Losses, truth: dict[str, np.ndarray]) -> None:
    report = {}
    for term, names in NAMES.items():
        key = next((f"loss/{name}" for name in names if f"loss/{name}" in truth), None)
        ours = getattr(losses, term)
        assert (key is None) == (ours is None), term
        if key is not None:
            report[term] = float(ours.sum.detach() / ours.count) / float(truth[key]) - 1
    print(report)
    assert all(abs(away) <= 1e-3 for away in report.values())


def check_gradients(network: torch.nn.Module, found: Checkpoint, truth: dict[str, np.ndarray], origin: str) -> None:
    ours = foreign_gradients(network, found, origin)
    bad = []
    for key in (key for key in truth if key.startswith("gradnorm/")):
        name, norm = key.removeprefix("gradnorm/"), float(truth[key])
        gradient = ours[name].double()
        mine = float(gradient.norm())
        if norm < 1e-6:
            same = mine < 1e-6
        else:
            head = gradient.flatten()[:4].numpy() - truth[f"gradhead/{name}"]
            same = abs(mine / norm - 1) <= 1e-2 and np.abs(head).max() <= 0.02 * norm / gradient.numel() ** 0.5
        if not same:
            bad.append((name, mine, norm))
    assert not bad, f"{len(bad)} gradients differ, such as {bad[:5]}"


def foreign_gradients(network: torch.nn.Module, found: Checkpoint, origin: str) -> dict[str, Tensor]:
    """Gradients under the names of the framework, in its order of rows."""
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return to_foreign(found._replace(state=gradients), origin, force=True)
