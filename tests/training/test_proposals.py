"""Proposals in a file, and on the canvas of a training image."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrcnn.accelerate.prepare import prepare
from maskrcnn.config import AugmentConfig
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import EvalLoader, TrainLoader
from maskrcnn.engine import Engine
from maskrcnn.errors import CheckpointError, DataError
from maskrcnn.model.build import build
from maskrcnn.training.task import rpn_tensors
from maskrcnn.training.two_stage import (
    FORMAT,
    KEY,
    KeptProposals,
    check_covers,
    compute_proposals,
    place_proposals,
    propose,
    read_proposals,
    recall_of,
    write_proposals,
)
from maskrcnn.weights.checkpoint import load_checkpoint, read_tensors
from tests.scenes import NONE, SMALL, TWO_APART, WIDE, write_coco
from tests.tiny import tiny_config, write_tiny_checkpoint

SCENES = {"a.png": TWO_APART, "b.png": NONE, "c.png": SMALL, "d.png": WIDE}
OWN = replace(tiny_config(), rpn=replace(tiny_config().rpn, features="own"))


def keep_none(path: Path, dataset: Dataset) -> KeptProposals:
    """A file without a box, of a data set."""
    none = {image_id: (torch.zeros(0, 4), torch.zeros(0)) for image_id in dataset.image_ids.tolist()}
    write_proposals(path, none, dataset, build(OWN), OWN, "")
    return read_proposals(path)


def true_boxes(dataset) -> dict[int, torch.Tensor]:
    return {(record := dataset.record(i)).image_id: torch.from_numpy(record.boxes) for i in range(len(dataset))}


@pytest.mark.parametrize(
    "augmentation",
    [
        AugmentConfig(vertical_flip=0.5, rotate90=True, scale=(0.7, 1.5)),
        AugmentConfig(min_sizes=(40, 56), vertical_flip=0.5),
        AugmentConfig(crop=40, vertical_flip=0.5, rotate90=True),
    ],
    ids=["turned and scaled", "two sizes", "cropped"],
)
def test_boxes_go_where_the_image_goes(tmp_path: Path, augmentation: AugmentConfig) -> None:
    """The true boxes as proposals, over epochs: they lie on the loader's own, which have no mask to be cut by."""
    dataset, config = read_dataset(write_coco(tmp_path, SCENES)), tiny_config()
    rule, boxes_only = config.input, replace(config, mask_head=replace(config.mask_head, enabled=False))
    loader = TrainLoader(dataset, boxes_only, augmentation, batch=2)
    kept, seen = true_boxes(dataset), 0
    for epoch in range(6):
        for images, gt, image_ids in loader.batches(epoch):
            placed = place_proposals(kept, images, image_ids, augmentation, rule)
            for b in range(2):
                mine, theirs = placed.boxes[b][placed.valid[b]], gt.boxes[b][gt.valid[b]]
                if augmentation.crop:  # the loader drops what is less than a pixel
                    mine = mine[(mine[:, 2:] - mine[:, :2] >= 1).all(1)]
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)
                seen += len(theirs)
            assert not placed.boxes[~placed.valid].any()
    assert seen > 12


def test_a_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    model = build(OWN)
    found = {
        3: (torch.rand(3, 4), torch.rand(3)),
        2: (torch.zeros(0, 4), torch.zeros(0)),
        1: (torch.rand(1, 4), torch.rand(1)),
    }
    dataset = read_dataset(write_coco(tmp_path, {"ä b.png": SMALL, "b.png": NONE, "c.png": WIDE})).subset([2, 0, 1])
    write_proposals(tmp_path / "p.safetensors", found, dataset, model, OWN, "abc")
    kept = read_proposals(tmp_path / "p.safetensors")
    assert {image_id: boxes.tolist() for image_id, boxes in kept.boxes.items()} == {
        image_id: boxes.tolist() for image_id, (boxes, _) in found.items()
    }
    scores = read_tensors(tmp_path / "p.safetensors", KEY, FORMAT)[0]["scores"]
    assert scores.tolist() == [*found[1][1].tolist(), *found[3][1].tolist()]
    assert kept.images == {1: ("ä b.png", 32, 32), 2: ("b.png", 48, 64), 3: ("c.png", 40, 120)}
    assert (kept.weights, kept.config) == ("abc", OWN)
    torch.testing.assert_close(kept.network, {f"rpn.{name}": t for name, t in model.rpn.state_dict().items()})


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no proposals")
    checkpoint = write_tiny_checkpoint(tmp_path / "model.safetensors")
    keep_none(tmp_path / "damaged.safetensors", read_dataset(write_coco(tmp_path, SCENES)))
    content = bytearray((tmp_path / "damaged.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(bytes(content))
    for path in (tmp_path / "text.safetensors", checkpoint, tmp_path / "damaged.safetensors"):
        with pytest.raises(CheckpointError, match=path.name):
            read_proposals(path)


def test_images_without_proposals_are_an_error_that_names_one(tmp_path: Path) -> None:
    dataset = read_dataset(write_coco(tmp_path, SCENES))
    check_covers(keep_none(tmp_path / "p", dataset), dataset, "p")
    with pytest.raises(DataError, match=r"p has no proposals for 2 of 4 images of .*train\.json, such as image 2"):
        check_covers(keep_none(tmp_path / "p", dataset.subset([0, 3])), dataset, "p")


def test_proposals_of_other_images_are_an_error_that_names_the_first(tmp_path: Path) -> None:
    """Ids coincide, as every exporter counts from 1: names and sizes must, too; folder and order are free."""
    dataset = read_dataset(write_coco(tmp_path, SCENES))
    kept = keep_none(tmp_path / "p", dataset)
    elsewhere = read_dataset(write_coco(tmp_path / "moved", SCENES, "other.json"), tmp_path / "images")
    check_covers(kept, elsewhere.subset([3, 1]), "p")
    renamed = read_dataset(write_coco(tmp_path / "renamed", {"a.png": TWO_APART, "x.png": NONE, "y.png": SMALL}))
    with pytest.raises(DataError, match=r"p was .* image 2 is b\.png \(48 x 64\) there, x\.png \(48 x 64\) here$"):
        check_covers(kept, renamed, "p")
    resized = read_dataset(write_coco(tmp_path / "resized", {**SCENES, "c.png": WIDE}))
    with pytest.raises(DataError, match=r"p was .* image 3 is c\.png \(32 x 32\) there, c\.png \(40 x 120\) here$"):
        check_covers(kept, resized, "p")


def test_a_models_proposals_are_those_of_its_training_step_in_pixels_of_the_image(tmp_path: Path) -> None:
    write_coco(tmp_path, SCENES)
    weights = write_tiny_checkpoint(tmp_path / "model.safetensors")
    figures = propose(weights, tmp_path / "train.json", tmp_path / "p.safetensors", workers=0, precision="fp32")
    kept = read_proposals(tmp_path / "p.safetensors")
    boxes, dataset = kept.boxes, read_dataset(tmp_path / "train.json")
    checkpoint = load_checkpoint(weights)
    model = build(checkpoint.config)
    model.load_state_dict(checkpoint.state)
    model = prepare(model)
    for images, _, image_ids in EvalLoader(dataset, checkpoint.config):
        with torch.inference_mode():
            wanted = model.propose(images, training=True)
        got = boxes[int(image_ids)]
        assert len(got) == int(wanted.valid.sum()) > 10
        torch.testing.assert_close(got[:5], wanted.boxes[0, :5], rtol=0, atol=1e-2)  # these images keep their size
    found = {image_id: (part, torch.zeros(len(part))) for image_id, part in boxes.items()}
    assert recall_of(found, dataset) == figures
    assert figures["objects"] == 4
    assert figures["proposals"] == max(map(len, boxes.values()))
    perfect = {image_id: (part, torch.zeros(len(part))) for image_id, part in true_boxes(dataset).items()}
    assert recall_of(perfect, dataset)["AR"] == 1


def test_an_image_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    write_coco(tmp_path, SCENES)
    (tmp_path / "images" / "c.png").write_text("no image")
    dataset = read_dataset(tmp_path / "train.json")
    loader = EvalLoader(dataset, OWN, warn=lambda text: None)
    found = compute_proposals(Engine.of(build(OWN), [], "fp32"), loader, training=False)
    assert sorted(found) == [1, 2, 3, 4]
    assert len(found[3][0]) == 0
    assert len(found[1][0]) > 0


def test_the_rpns_tensors_are_the_same_from_shared_features() -> None:
    shared, own = build(tiny_config()), build(OWN)
    names = {f"rpn.{name}" for name in own.rpn.state_dict()}
    assert rpn_tensors(shared.state_dict()).keys() == names
    assert rpn_tensors(own.state_dict()).keys() == names
