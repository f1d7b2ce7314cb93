"""A user's function on training images: what it may return, and what is said if it does not fit."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.config import AugmentConfig
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.transform import apply, name_of
from maskrcnn.errors import ConfigError
from tests.data.test_augment import record_of, rectangle
from tests.data.test_loader import CROP, KEEP, write

SIZE = (40, 60)
RECORD = record_of([rectangle(10, 5, 20, 25), rectangle(30, 10, 50, 20)], SIZE)
IMAGE = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)


def nothing(image, boxes, masks, keypoints):
    return image, boxes, masks, keypoints


def mirror(image, boxes, masks, keypoints):
    """Left becomes right; the boxes are those of the masks."""
    return image[:, ::-1], None, masks[:, :, ::-1], keypoints


def noise(image, boxes, masks, keypoints):
    """Draws from every global generator."""
    draws = [random.random(), np.random.rand(), torch.rand(()).item()]
    return np.full_like(image, int(255 * sum(draws) / 3)), boxes, masks, keypoints


def test_what_it_leaves_alone_stays() -> None:
    image, record = apply(nothing, IMAGE, RECORD, 0, resizes=False)
    assert (image == IMAGE).all()
    assert (record.boxes == RECORD.boxes).all()
    for before, after in zip(RECORD.segmentations, record.segmentations, strict=True):
        assert (draw_bitmap(before, SIZE) == draw_bitmap(after, SIZE)).all()


def test_objects_move_with_the_image() -> None:
    image, record = apply(mirror, IMAGE, RECORD, 0, resizes=False)
    assert (image == IMAGE[:, ::-1]).all()
    assert record.boxes.tolist() == [[40, 5, 50, 25], [10, 10, 30, 20]]


def test_an_object_with_an_empty_mask_or_box_is_dropped() -> None:
    def hide_first(image, boxes, masks, keypoints):
        masks[0] = False
        return image, boxes, masks, keypoints

    def no_second_box(image, boxes, masks, keypoints):
        boxes[1] = 0
        return image, boxes, masks, keypoints

    for transform, left in ((hide_first, 1), (no_second_box, 0)):
        _, record = apply(transform, IMAGE, RECORD, 0, resizes=False)
        assert record.labels.tolist() == [left]
        assert len(record.segmentations) == len(record.areas) == len(record.annotation_ids) == 1


def test_an_object_without_a_mask_moves_by_its_box_and_gets_none() -> None:
    record = record_of([None], SIZE, boxes=[[10, 5, 20, 25]])
    _, moved = apply(mirror, IMAGE, record, 0, resizes=False)
    assert moved.boxes.tolist() == [[40, 5, 50, 25]]
    assert moved.segmentations == [None]


def test_images_without_objects_pass() -> None:
    def as_lists(image, boxes, masks, keypoints):
        return image, list(boxes), list(masks), keypoints

    _, record = apply(as_lists, IMAGE, record_of([], SIZE), 0, resizes=False)
    assert record.boxes.shape == (0, 4)
    assert record.segmentations == []


def test_keypoints_come_and_go() -> None:
    points = np.array([[[12, 7, 2]], [[31, 12, 1]]], dtype=np.float32)

    def move(image, boxes, masks, keypoints):
        masks[0] = False
        return image, boxes, masks, keypoints + np.array([1, 0, 0], dtype=np.float32)

    _, record = apply(move, IMAGE, RECORD._replace(keypoints=points), 0, resizes=False)
    assert record.keypoints is not None
    assert record.keypoints.tolist() == [[[32, 12, 1]]]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda image, boxes, masks, keypoints: image, "must return image, boxes, masks and keypoints"),
        (lambda image, boxes, masks, keypoints: (image, boxes, masks), "it returned 3 values"),
        (lambda image, boxes, masks, keypoints: (image / 255, boxes, masks, keypoints), "the image must be uint8"),
        (lambda image, boxes, masks, keypoints: (image[..., 0], boxes, masks, keypoints), r"\[height width 3\]"),
        (lambda image, boxes, masks, keypoints: (image, boxes[:1], masks, keypoints), "it got 2 objects.*boxes"),
        (lambda image, boxes, masks, keypoints: (image, boxes, masks[:1], keypoints), "it got 2 objects.*masks"),
        (lambda image, boxes, masks, keypoints: (image, boxes, masks[:, 1:], keypoints), r"\[2, 40, 60\]"),
        (lambda image, boxes, masks, keypoints: (image, boxes * np.nan, masks, keypoints), "not finite"),
        (lambda image, boxes, masks, keypoints: (image, boxes, masks[:, ::-1, ::-1], keypoints), "no longer agree"),
        (lambda image, boxes, masks, keypoints: (image, boxes, masks, boxes), "keypoints must be None"),
        (lambda image, boxes, masks, keypoints: (image[1:], None, masks[:, 1:], keypoints), r"train\.augment\.crop"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_the_image(wrong, words: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)test_transform.*image 7.*" + words):
        apply(wrong, IMAGE, RECORD, 0, resizes=False)


def test_the_size_may_change_before_a_crop() -> None:
    def half(image, boxes, masks, keypoints):
        return image[::2, ::2], boxes / 2, masks[:, ::2, ::2], keypoints

    image, record = apply(half, IMAGE, RECORD, 0, resizes=True)
    assert image.shape == (20, 30, 3)
    assert record.size == (20, 30)
    assert record.boxes[1].tolist() == [15, 5, 25, 10]


def test_global_generators_follow_from_the_seed_and_go_on_as_before() -> None:
    def seed_all() -> None:
        np.random.seed(1)
        torch.manual_seed(1)

    seed_all()
    expected = np.random.rand(), torch.rand(()).item()
    seed_all()
    images = [apply(noise, IMAGE, RECORD, seed, resizes=False)[0] for seed in (3, 3, 4)]
    assert (np.random.rand(), torch.rand(()).item()) == expected  # Python's own is also drawn by the type checker
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_batches_are_the_same_in_workers(tmp_path: Path) -> None:
    data = write(tmp_path)
    here = list(TrainLoader(data, KEEP, CROP, batch=3, transform=noise).batches(1))
    loader = TrainLoader(data, KEEP, CROP, batch=3, transform=noise, workers=1)
    there = list(loader.batches(1))
    loader.close()
    for a, b in zip(here, there, strict=True):
        assert (a.images.pixels == b.images.pixels).all()
        assert (a.gt.boxes == b.gt.boxes).all()


def broken(image, boxes, masks, keypoints):
    return image, boxes[:-1], masks, keypoints


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_answer_ends_the_run_and_not_the_image(tmp_path: Path, workers: int) -> None:
    loader = TrainLoader(write(tmp_path), KEEP, CROP, batch=3, transform=broken, workers=workers)
    with pytest.raises(ConfigError, match=r"^the transform tests\.data\.test_transform\.broken, image 10\d .*boxes"):
        list(loader.batches(0))
    loader.close()


def test_what_workers_cannot_get_is_refused_at_once(tmp_path: Path) -> None:
    data = write(tmp_path)
    with pytest.raises(ConfigError, match=r"<lambda> cannot be sent to worker processes.*train\.workers=0"):
        TrainLoader(data, KEEP, CROP, batch=3, transform=lambda *given: given, workers=1)
    TrainLoader(data, KEEP, CROP, batch=3, transform=lambda *given: given)


def test_a_run_remembers_the_name() -> None:
    class Mine:
        def __call__(self, *given):
            return given

    assert name_of(None) is None
    assert name_of(mirror) == "tests.data.test_transform.mirror"
    assert str(name_of(Mine())).endswith("Mine")


def test_without_a_crop_images_keep_their_canvas(tmp_path: Path) -> None:
    loader = TrainLoader(write(tmp_path), KEEP, AugmentConfig(), batch=2, transform=mirror)
    assert sum(len(batch.image_ids) for batch in loader.batches(0)) >= 12


@pytest.mark.parametrize("library", ["albumentations", "torchvision"])
def test_the_examples_of_the_docs_work(library: str) -> None:
    pytest.importorskip(library)
    page = (Path(__file__).parents[2] / "docs" / "train.md").read_text()
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if library in text)
    names: dict[str, Any] = {"__name__": "example"}
    exec(block, names)
    for record in (RECORD, record_of([], SIZE)):
        seen = [apply(names["transform"], IMAGE, record, seed, resizes=False) for seed in (*range(6), 0)]
        assert (seen[0][0] == seen[-1][0]).all()
        assert (seen[0][1].boxes == seen[-1][1].boxes).all()
        assert any((image != IMAGE).any() for image, _ in seen)
        assert {len(moved.labels) for _, moved in seen} == {len(record.labels)}
