"""Objects of one image pasted into another: what lies on top hides what lies below, pixel by pixel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.config import AugmentConfig, InputConfig, ModelConfig
from maskrcnn.data.augment import augment
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.copy_paste import copy_paste
from maskrcnn.data.dataset import Record
from maskrcnn.data.loader import TrainLoader
from tests.data.test_augment import record_of, rectangle, rle_of
from tests.data.test_loader import CROP, KEEP, write

MODEL = ModelConfig(input=InputConfig(min_size=0, max_size=2000))
PASTE = AugmentConfig(copy_paste=1.0, horizontal_flip=0.0)
SIZE = (60, 80)


def flat_image(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.uint8)


def paste(record: Record, other: Record, seed: int = 0, config: AugmentConfig = PASTE) -> tuple[np.ndarray, Record]:
    images = flat_image(10, record.size), flat_image(200, other.size)
    return copy_paste(images[0], record, images[1], other, np.random.default_rng(seed), config, MODEL)


def test_the_pasted_object_is_on_top_and_the_other_loses_its_pixels() -> None:
    below = record_of([rectangle(10, 10, 40, 50)], SIZE)
    above = record_of([rectangle(30, 5, 70, 30)], SIZE)
    image, record = paste(below, above)
    assert (image[5:30, 30:70] == 200).all()
    assert (image == 200).all(axis=2).sum() == 25 * 40
    old, new = (draw_bitmap(segmentation, SIZE) for segmentation in record.segmentations)
    expected = np.zeros(SIZE, dtype=bool)
    expected[10:50, 10:40] = True
    expected[5:30, 30:70] = False
    assert (old == expected).all()
    assert new.sum() == 25 * 40
    assert record.boxes.tolist() == [[10, 10, 40, 50], [30, 5, 70, 30]]
    assert record.areas.tolist() == [30 * 40 - 10 * 20, 1000]
    assert not record.ignore.any()


def test_a_box_shrinks_to_what_is_left() -> None:
    _, record = paste(record_of([rectangle(10, 10, 40, 50)], SIZE), record_of([rectangle(0, 0, 80, 30)], SIZE))
    assert record.boxes[0].tolist() == [10, 30, 40, 50]


@pytest.mark.parametrize(("bottom", "left_over", "ignored"), [(50, 0, None), (48, 1, True), (30, 1, False)])
def test_what_is_wholly_hidden_is_removed_and_what_is_nearly_hidden_ignored(
    bottom: int, left_over: int, ignored: bool | None
) -> None:
    _, record = paste(record_of([rectangle(10, 10, 40, 50)], SIZE), record_of([rectangle(5, 5, 60, bottom)], SIZE))
    assert len(record.labels) == left_over + 1
    if ignored is not None:
        assert record.ignore.tolist() == [ignored, False]


def test_crowds_and_boxes_alone_are_not_pasted_and_crowds_stay() -> None:
    other = record_of(
        [rectangle(0, 0, 50, 50), None], SIZE, boxes=[[0, 0, 50, 50], [0, 0, 60, 60]], ignore=[True, False]
    )
    below = record_of([rectangle(10, 10, 40, 50)], SIZE)
    image, record = paste(below, other)
    assert (image == 10).all()
    assert record is below
    crowd = record_of([rectangle(10, 10, 40, 50)], SIZE, ignore=[True])
    _, record = paste(crowd, record_of([rectangle(5, 5, 60, 55)], SIZE))
    assert record.ignore.tolist() == [True, False]
    assert record.boxes[0].tolist() == [10, 10, 40, 50]


def test_hidden_keypoints_are_labelled_but_not_visible() -> None:
    points = np.array([[[12, 12, 2], [38, 12, 2], [38, 40, 0]]], dtype=np.float32)
    below = record_of([rectangle(10, 10, 40, 50)], SIZE, keypoints=points)
    above = record_of([rectangle(30, 5, 70, 30)], SIZE, keypoints=points + np.array([20, 0, 0], dtype=np.float32))
    _, record = paste(below, above)
    assert record.keypoints is not None
    assert record.keypoints[0].tolist() == [[12, 12, 2], [38, 12, 1], [38, 40, 0]]
    assert record.keypoints[1].tolist() == [[32, 12, 2], [58, 12, 2], [0, 0, 0]]


def test_neither_image_nor_record_is_changed() -> None:
    below, above = record_of([rectangle(10, 10, 40, 50)], SIZE), record_of([rectangle(30, 5, 70, 30)], SIZE)
    image, other_image = flat_image(10), flat_image(200)
    copy_paste(image, below, other_image, above, np.random.default_rng(0), PASTE, MODEL)
    assert (image == 10).all()
    assert (other_image == 200).all()
    assert below.boxes.tolist() == [[10, 10, 40, 50]]
    assert isinstance(below.segmentations[0], list)


@settings(max_examples=60)
@given(st.data())
def test_masks_never_share_pixels_with_what_was_pasted_and_show_what_the_image_shows(data: st.DataObject) -> None:
    """The image says it: pasted pixels are bright. Sizes, scales, mirrors and turns are any."""
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    size, other_size = (tuple(rng.integers(24, 70, 2).tolist()) for _ in range(2))

    def bitmaps(size: tuple[int, int], count: int) -> list:
        rows, columns = np.ogrid[: size[0], : size[1]]
        found = []
        for _ in range(count):
            y, x, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(4, 16)
            found.append(rle_of((rows - y) ** 2 + (columns - x) ** 2 < radius**2))
        return found

    def record(size: tuple[int, int]) -> Record:
        segmentations = [s for s in bitmaps(size, int(rng.integers(1, 5))) if len(s[0]) > 1]
        boxes = []
        for segmentation in segmentations:
            ys, xs = np.nonzero(draw_bitmap(segmentation, size))
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        return record_of(segmentations, size, boxes=boxes)

    below, above = record(size), record(other_size)
    config = AugmentConfig(scale=(0.5, 2.0), horizontal_flip=0.5, vertical_flip=0.5, rotate90=True)
    image, found = paste(below, above, seed, config)
    bright = np.asarray((image > 100).any(axis=2))
    masks = [draw_bitmap(segmentation, size) for segmentation in found.segmentations]
    covered = np.zeros(size, dtype=bool)
    for mask, box, area in zip(masks, found.boxes, found.areas, strict=True):
        if mask.any():
            ys, xs = np.nonzero(mask)
        if mask[bright].any():  # pasted
            assert bright[mask].all()
            covered |= mask
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert area == mask.sum()
    assert (covered == bright).all()
    assert found.keypoints is None
    lengths = {len(field) for field in (found.boxes, found.labels, found.ignore, found.areas, found.segmentations)}
    assert lengths == {len(found.annotation_ids)}


@pytest.mark.parametrize("target", ["hard", "soft", "polygon"])
def test_every_form_of_masks_can_be_made_of_it(target) -> None:
    model = replace(MODEL, mask_head=replace(MODEL.mask_head, target=target))
    image, record = paste(record_of([rectangle(10, 10, 40, 50)], SIZE), record_of([rectangle(30, 5, 70, 30)], SIZE))
    sample = augment(image, record, np.random.default_rng(1), AugmentConfig(crop=64, rotate90=True), model)
    assert sample.masks is not None
    assert sample.masks.any(axis=(1, 2)).tolist() == [True] * len(sample.labels)


def test_batches_follow_from_the_seed_in_workers_too(tmp_path: Path) -> None:
    data, config = write(tmp_path), replace(CROP, copy_paste=0.7)
    plain = [batch.gt.valid.sum().item() for batch in TrainLoader(data, KEEP, CROP, batch=3).batches(0)]
    here = list(TrainLoader(data, KEEP, config, batch=3).batches(0))
    loader = TrainLoader(data, KEEP, config, batch=3, workers=1)
    there = list(loader.batches(0))
    loader.close()
    for a, b in zip(here, there, strict=True):
        assert (a.images.pixels == b.images.pixels).all()
        assert (a.gt.boxes == b.gt.boxes).all()
        assert (a.gt.masks == b.gt.masks).all()
    assert sum(batch.gt.valid.sum().item() for batch in here) > sum(plain)


def test_padding_stays_empty(tmp_path: Path) -> None:
    """Nothing is pasted beyond the image: crops that are smaller than the canvas keep zeros there."""
    data = write(tmp_path, sizes=[(40, 40), (30, 44)])
    config = AugmentConfig(crop=64, copy_paste=1.0, scale=(0.3, 1.2), scale_law="uniform", rotate90=True)
    for batch in TrainLoader(data, KEEP, config, batch=4).batches(0):
        assert batch.gt is not None
        for pixels, (height, width), boxes, valid in zip(
            batch.images.pixels, batch.images.sizes.tolist(), batch.gt.boxes, batch.gt.valid, strict=True
        ):
            assert (pixels[:, height:] == 0).all()
            assert (pixels[:, :, width:] == 0).all()
            assert (boxes[valid][:, 2] <= width + 1e-4).all()
            assert (boxes[valid][:, 3] <= height + 1e-4).all()
