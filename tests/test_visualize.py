"""Overlays: everything is drawn in its place and the rest of the image stays. How it looks is for people to judge."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.results import Result
from maskrcnn.visualize import class_hue, draw, object_colours

GREY = 120
CATEGORIES = (Category(1, "cat", keypoints=("a", "b"), skeleton=((0, 1),)), Category(2, "dog"))


def scene(height=700, width=900, **changes):
    """A cat whose mask fills the left half of its box, on a grey image that is not enlarged."""
    mask = np.zeros((1, 28, 28), dtype=np.float32)
    mask[:, :, :14] = 1
    result = Result(
        size=(height, width),
        boxes=np.array([[200, 200, 600, 600]], dtype=np.float32),
        scores=np.array([0.9], dtype=np.float32),
        labels=np.array([1]),
        small_masks=mask,
        categories=CATEGORIES,
        image=np.full((height, width, 3), GREY, dtype=np.uint8),
    )
    return replace(result, **changes)


def crowd(count, size=600):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, size - 30, (count, 2))
    return Result(
        size=(size, size),
        boxes=np.concatenate([corners, corners + 25], axis=1).astype(np.float32),
        scores=rng.uniform(0.5, 1, count).astype(np.float32),
        labels=rng.integers(1, 3, count),
        categories=CATEGORIES,
        image=np.full((size, size, 3), GREY, dtype=np.uint8),
    )


def drawn(result):
    return np.asarray(result.overlay())


def without_text(result):
    fields = (result.image, result.boxes, result.scores, result.labels, result.names)
    return np.asarray(draw(*fields, outlines=result.outlines, text=False))


def changed(drawing):
    """Where the drawing differs from the grey image, bool [H W]."""
    return (drawing != GREY).any(axis=2)


def test_mask_box_and_name_are_where_they_should_be() -> None:
    difference = changed(drawn(scene()))
    assert difference[230:570, 230:370].all()  # the mask's inside
    assert not difference[230:570, 430:570].any()  # the rest of the box
    assert difference[400, 598:602].any()  # the box's right edge
    assert difference[185:199, 205:260].any()  # the plate above it
    assert not difference[:170].any()
    assert not difference[610:].any()
    assert not difference[:, 610:].any()
    assert not changed(without_text(scene()))[:195].any()


def test_the_mask_is_translucent_and_a_hole_stays_clear() -> None:
    image = np.full((700, 900, 3), GREY, dtype=np.uint8)
    image[300:320, 250:270] = 255
    mask = np.ones((1, 28, 28), dtype=np.float32)
    mask[:, 10:18, 10:18] = 0
    drawn = without_text(scene(small_masks=mask, image=image)).astype(int)
    assert (drawn[310, 260] != drawn[310, 240]).any()  # what lies under the mask can still be seen
    np.testing.assert_array_equal(drawn[400, 400], [GREY] * 3)


def test_without_objects_the_drawing_is_the_image() -> None:
    assert not changed(drawn(scene().select([]))).any()


def test_keypoints_and_limbs_of_the_objects_own_category_are_drawn() -> None:
    keypoints = np.zeros((1, 2, 3), dtype=np.float32)
    keypoints[0] = [[450, 300, 0.9], [550, 500, 0.9]]
    difference = changed(drawn(scene(keypoints=keypoints)))
    assert difference[300, 450]
    assert difference[500, 550]
    assert difference[400, 499:502].all()  # halfway along the limb
    keypoints[0, 1, 2] = 0  # not seen: no keypoint, no limb
    difference = changed(drawn(scene(keypoints=keypoints)))
    assert difference[300, 450]
    assert not difference[500, 550]
    assert not difference[400, 498:503].any()
    assert not changed(drawn(scene(keypoints=keypoints, labels=np.array([2]))))[300, 450]


@pytest.mark.parametrize(("side", "enlarged"), [(128, 640), (300, 600), (700, 700), (4, 640)])
def test_small_images_are_enlarged(side, enlarged) -> None:
    result = scene(image=np.zeros((side, side, 3), dtype=np.uint8), size=(side, side))
    assert replace(result, boxes=result.boxes * side / 700).overlay().size == (enlarged, enlarged)


def test_lines_and_letters_grow_with_the_image() -> None:
    def band(factor):
        big = scene(700 * factor, 900 * factor)
        return int(changed(drawn(replace(big, boxes=big.boxes * factor)))[: 200 * factor].any(axis=1).sum())

    assert band(4) == pytest.approx(4 * band(1), rel=0.1)


def test_images_of_any_number_of_channels_are_drawn() -> None:
    for channels in (1, 2, 3, 4, 6):
        assert scene(image=np.full((700, 900, channels), GREY, dtype=np.uint8)).overlay().mode == "RGB"
    assert scene(image=np.full((700, 900), GREY, dtype=np.uint8)).overlay().mode == "RGB"


def test_the_image_is_read_from_its_path(tmp_path) -> None:
    Image.fromarray(np.asarray(scene().image)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(drawn(scene(image=None, path=tmp_path / "a.png")), drawn(scene()))


def test_an_image_that_is_missing_or_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="neither its image nor a path"):
        scene(image=None).overlay()
    with pytest.raises(ValueError, match=r"\(10, 10\)"):
        scene(image=np.zeros((10, 10, 3), dtype=np.uint8)).overlay()


def test_a_class_keeps_its_colour_and_its_objects_differ_in_shade() -> None:
    colours = object_colours(np.array([1, 2, 1, 1, 2]))
    assert len(set(colours)) == 5
    assert object_colours(np.array([2, 1]))[1] == colours[0]  # whatever else is in the image
    hues = sorted(class_hue(label) for label in range(1, 13))
    assert np.diff([*hues, hues[0] + 1]).min() > 0.03
    brightness = np.array([object_colours(np.array([label]))[0] for label in range(90)]) @ [0.299, 0.587, 0.114]
    assert brightness.min() > 95  # to be seen on black


def test_in_a_crowd_some_names_are_left_out_and_none_overlap(monkeypatch) -> None:
    from PIL import ImageDraw

    plates = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "rounded_rectangle", lambda self, place, **_: plates.append(place))
    crowd(200).overlay()
    assert len(plates) < 200
    for i, a in enumerate(plates):
        for b in plates[:i]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
    plates.clear()
    crowd(8).overlay()
    assert len(plates) == 8
    assert all(0 <= x1 < x2 <= 600 and 0 <= y1 < y2 <= 600 for x1, y1, x2, y2 in plates)


def test_lines_of_a_crowd_of_small_objects_in_a_large_image_stay_thin() -> None:
    places = [(x, y) for x in range(100, 3900, 600) for y in range(100, 3900, 600)]
    boxes = np.array([(x, y, x + 25, y + 25) for x, y in places], dtype=np.float32)
    image = np.full((4000, 4000, 3), GREY, dtype=np.uint8)
    labels, scores = np.ones(len(boxes), np.int64), np.ones(len(boxes), np.float32)
    drawn = np.asarray(draw(image, boxes, scores, labels, ["cat"] * len(boxes), categories=CATEGORIES, text=False))
    assert (drawn[100:125, 100:125] != GREY).any()
    assert (drawn[105:120, 105:120] == GREY).all()
