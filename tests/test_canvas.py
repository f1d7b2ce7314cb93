"""Sizes to the pixel, the three resize kernels, canvases, and the way from the canvas back to the image."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.canvas import (
    _axis,
    boxes_to_image,
    canvas_size,
    fit,
    join,
    keypoints_to_image,
    prepare_image,
    prepare_views,
    resize,
    to_images,
)
from maskrcnn.config import TTA, InputConfig
from maskrcnn.ops.boxes import to_canvas
from maskrcnn.ops.interpolate import interpolate

PAPER: dict[str, Any] = {"min_size": 800, "max_size": 1333}
FLOOR = InputConfig(size_rounding="floor")
SIZES = {  # answers of the frameworks: original, Detectron, Detectron2, torchvision
    (480, 640): ((800, 1067), (800, 1067), (800, 1066)),
    (640, 480): ((1067, 800), (1067, 800), (1066, 800)),
    (427, 640): ((800, 1199), (800, 1199), (800, 1199)),
    (426, 640): ((800, 1202), (800, 1202), (800, 1201)),
    (375, 500): ((800, 1067), (800, 1067), (800, 1066)),
    (333, 500): ((800, 1201), (800, 1201), (800, 1201)),
    (360, 640): ((750, 1333), (750, 1333), (749, 1333)),
    (1080, 1920): ((750, 1333), (750, 1333), (749, 1333)),
    (1024, 2048): ((666, 1333), (667, 1333), (666, 1333)),
    (100, 3000): ((44, 1333), (44, 1333), (44, 1333)),
}


@pytest.mark.parametrize("original", SIZES)
def test_sizes_are_those_of_the_frameworks(original):
    rules = (InputConfig(size_rounding="half_even"), InputConfig(), FLOOR)
    assert tuple(fit(original[0], original[1], rule).size for rule in rules) == SIZES[original]


def test_floor_loses_a_pixel_if_the_product_is_just_below_a_whole_number():
    short = [n for n in range(1, 2001) if fit(n, n, FLOOR).size[0] == 799]
    assert len(short) == 85
    assert {97, 161, 167, 193, 334, 335, 337, 539, 578, 607, 610, 644} <= set(short)
    long = [n for n in range(1, 3001) if fit(1, n, FLOOR).size[1] == 1332]
    assert len(long) == 91
    assert {149, 153, 298, 601, 612, 622, 634} <= set(long)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_floor_is_what_torch_computes(height, width):
    scale = min(800 / min(height, width), 1333 / max(height, width))
    expected = [int(np.floor(float(side * scale))) for side in (height, width)]
    assert fit(height, width, FLOOR).size == tuple(max(side, 1) for side in expected)
    if height * width < 10_000 and min(expected) > 0:
        tiny = F.interpolate(torch.zeros(1, 1, height, width), scale_factor=scale, recompute_scale_factor=True)
        assert list(tiny.shape[2:]) == expected


@pytest.mark.parametrize("rule", ["half_up", "floor", "half_even"])
def test_min_size_0_keeps_the_size_up_to_max_size(rule):
    own_size = InputConfig(min_size=0, size_rounding=rule)
    doubled = replace(own_size, zoom=2.0)
    assert fit(97, 1333, own_size).size == (97, 1333)
    assert fit(1000, 2666, own_size).size == (500, 1333)
    assert fit(1, 9000, own_size).size == (1, 1333)  # never an empty image
    assert fit(100, 200, doubled).size == (200, 400)
    assert fit(1000, 500, doubled).size == (
        1333,
        {"floor": 666, "half_up": 667, "half_even": 666}[rule],
    )


def test_detectron_has_one_scale_for_both_axes_the_others_have_quotients():
    assert fit(480, 640, InputConfig(size_rounding="half_even")).scales == (800 / 480, 800 / 480)
    assert fit(480, 640, InputConfig()).scales == (800 / 480, 1067 / 640)


def drawn(rng, height, width, channels=3):
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, (x + y) // 2 % 256], axis=2).astype(np.uint8)


def test_pillow_averages_what_it_shrinks():
    stripes = np.zeros((8, 8, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(resize(stripes, (4, 4), "pillow")[:, 1:-1].astype(int) - 100).max() <= 25
    picked = resize(stripes, (8, 2), "float")  # between columns 1 and 2, and 5 and 6: half of each
    assert (picked == 100).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_pillow_treats_every_channel_alike(rng, channels):
    image = drawn(rng, 20, 31, channels)
    whole = resize(image, (33, 17), "pillow")
    for c in range(channels):
        assert (whole[..., c] == resize(image[..., c : c + 1], (33, 17), "pillow")[..., 0]).all()


def test_kernels_enlarge_alike_to_one_grey_level():
    image = smooth(40, 50)
    pillow, floating = resize(image, (100, 125), "pillow"), resize(image, (100, 125), "float")
    assert pillow.dtype == np.uint8
    assert floating.dtype == np.float32
    assert np.abs(pillow - floating).max() <= 1


@pytest.mark.parametrize("size", [(80, 107), (13, 9), (30, 41), (1, 1)])
def test_float_is_torch_without_antialias(rng, size):
    image = drawn(rng, 30, 41)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    assert np.abs(resize(image, size, "float") - expected.numpy()).max() < 1e-4


def test_opencv_steps_exactly_one_over_the_scale():
    scale = 800 / 480  # of 640 columns, 1066.67 new ones, so 1067 steps of 0.6 and not of 640 / 1067
    ramp = np.broadcast_to(np.arange(640, dtype=np.float32)[None, :, None], (2, 640, 1))
    got = resize(ramp.copy(), (2, 1067), "opencv", steps=(1.0, 1 / scale))[0, :, 0]
    expected = ((np.arange(1067) + 0.5) / scale - 0.5).clip(0, 639)
    assert np.abs(got - expected).max() < 1e-4
    by_quotient = resize(ramp.copy(), (2, 1067), "float")[0, :, 0]
    assert 0.1 < np.abs(got - by_quotient).max() < 0.5


@pytest.mark.parametrize("kernel", ["pillow", "float", "opencv"])
@pytest.mark.parametrize("size", [(60, 90), (200, 160)])
def test_a_window_is_a_crop_of_the_resized_image(rng, kernel, size):
    image = drawn(rng, 100, 120)
    step_y, step_x = 100 / size[0], 120 / size[1]
    window = (10 * step_y, 20 * step_x, 40 * step_y, 80 * step_x)
    part = resize(image, (30, 60), kernel, window=window)
    whole = resize(image, size, kernel)[10:40, 20:80]
    # Pillow keeps windows in float32 and rounds after each of two passes
    assert np.abs(part.astype(np.float32) - whole).max() <= (2 if kernel == "pillow" else 1e-2)


@pytest.mark.parametrize("kernel", ["pillow", "float", "opencv"])
def test_a_window_that_is_read_alone_has_the_same_pixels(rng, kernel):
    """As if all were there, bit by bit, wherever it lies and however its borders are rounded. For squares: from 13 on,
    Pillow begins with the rows or with the columns by the sizes of what it gets."""
    image = drawn(rng, 900, 900)
    for _ in range(40):
        step = float(np.exp(rng.uniform(-0.7, 1.2)))
        height = width = int(rng.integers(8, 60))
        y1, x1 = (rng.random(2) * (900 - height * step)).tolist()
        window = (y1, x1, y1 + height * step, x1 + width * step)
        asked = []

        def read(top, left, bottom, right, asked=asked):
            asked.append((bottom - top, right - left))
            return image[top:bottom, left:right]

        part = resize(read, (height, width), kernel, window=window, steps=(step, step), whole=(900, 900))
        if kernel == "pillow":
            box = (window[1], window[0], window[3], window[2])
            whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))
        else:
            step = float(np.float32(step)) if kernel == "float" else step
            rows, columns = _axis(y1, step, height, 900, 0), _axis(x1, step, width, 900, 0)
            whole = interpolate(image, rows, columns)
        np.testing.assert_array_equal(part, whole)
        (read_height, read_width), reach = asked[0], 2 * (np.ceil(max(step, 1)) + 2)
        assert read_height <= height * step + reach
        assert read_width <= width * step + reach


def test_resize_refuses_unknown_kernels_and_types(rng):
    with pytest.raises(ValueError, match="pillow, float or opencv"):
        resize(drawn(rng, 4, 4), (2, 2), "lanczos")
    with pytest.raises(ValueError, match="float32"):
        resize(np.zeros((4, 4, 3), dtype=np.float32), (2, 2), "pillow")


def test_canvases():
    assert canvas_size((750, 1333), "exact") == (750, 1333)
    assert canvas_size((750, 1333), "multiple-of-32") == (768, 1344)
    assert canvas_size((32, 1), "multiple-of-32") == (32, 32)
    assert canvas_size((800, 1067), "buckets", **PAPER) == (800, 1088)
    assert canvas_size((1333, 800), "buckets", **PAPER) == (1344, 800)
    assert canvas_size((256, 300), "buckets", min_size=0, max_size=1333) == (256, 320)
    with pytest.raises(ValueError, match="buckets"):
        canvas_size((8, 8), "square")


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([0, 256, 640, 800]))
def test_a_bucket_holds_its_image_and_divides_by_32(height, width, min_size):
    size = fit(height, width, InputConfig(min_size=min_size)).size
    canvas = canvas_size(size, "buckets", min_size=min_size, max_size=1333)
    for side, place in zip(size, canvas, strict=True):
        assert side <= place <= 1344
        assert place % 32 == 0


def test_buckets_are_few():
    sizes = {fit(h, w, InputConfig()).size for h in range(100, 700, 17) for w in range(100, 700, 17)}
    wide = {size for size in sizes if size[0] == 800}
    assert len(wide) > 30
    assert len({canvas_size(size, "buckets", **PAPER) for size in wide}) <= 5


def test_images_lie_top_left_and_zeros_around(rng):
    arrays = [drawn(rng, 30, 20), drawn(rng, 10, 32)]
    images = to_images(arrays, [(60, 40), (10, 16)], [3, 4], (32, 32), [(0.5, 0.5), (1.0, 2.0)])
    assert images.pixels.shape == (2, 3, 32, 32)
    assert images.pixels.is_contiguous(memory_format=torch.channels_last)
    for b, one in enumerate(arrays):
        h, w = one.shape[:2]
        assert (images.pixels[b, :, :h, :w].permute(1, 2, 0).numpy() == one).all()
        assert images.pixels[b].sum() == one.sum()
    assert images.sizes.tolist() == [[30, 20], [10, 32]]
    assert images.original_sizes.tolist() == [[60, 40], [10, 16]]
    assert images.scales.tolist() == [[0.5, 0.5], [1.0, 2.0]]
    assert images.seeds.tolist() == [3, 4]


def test_an_image_must_fit_the_canvas(rng):
    with pytest.raises(ValueError, match="33,32"):
        to_images([drawn(rng, 33, 32)], [(33, 32)], [0], (32, 32), [(1.0, 1.0)])


def test_joined_images_are_the_single_ones(rng):
    rule = InputConfig(min_size=64, max_size=96)
    single = [prepare_image(drawn(rng, 50, 60), rule)._replace(seeds=torch.tensor([i])) for i in range(3)]
    together = join(single)
    for b, one in enumerate(single):
        for whole, part in zip(together[:-1], one[:-1], strict=True):
            assert torch.equal(whole[b : b + 1], part)  # pyright: ignore[reportArgumentType]
        assert together.views == one.views == ()


def test_views_are_the_image_at_other_sizes_then_all_of_them_mirrored(rng):
    array, rule = drawn(rng, 40, 60), InputConfig(min_size=80, max_size=200)
    images = prepare_views(array, rule, TTA((1.0, 0.5)))
    sizes = [view.sizes.tolist() for view in (images, *images.views)]
    assert sizes == [[[80, 120]], [[40, 60]], [[80, 120]], [[40, 60]]]
    assert torch.equal(images.views[0].pixels[0, :, :40, :60], torch.from_numpy(array).permute(2, 0, 1))
    for straight, mirrored in zip((images, images.views[0]), images.views[1:], strict=True):
        width = int(straight.sizes[0, 1])
        assert torch.equal(straight.pixels[..., :width].flip(-1), mirrored.pixels[..., :width])
    assert prepare_views(array, rule).views == ()


def test_joined_views_are_those_of_each_image(rng):
    rule = InputConfig(min_size=64, max_size=96)
    single = [prepare_views(drawn(rng, 50, 60), rule, TTA((1.0, 0.75))) for _ in range(2)]
    together = join(single)
    assert len(together.views) == 3
    for number, view in enumerate(together.views):
        assert torch.equal(view.pixels, torch.cat([one.views[number].pixels for one in single]))
        assert view.scales.shape == (2, 2)


@pytest.mark.parametrize("kernel", ["pillow", "float", "opencv"])
@pytest.mark.parametrize("rule", ["half_up", "floor", "half_even"])
def test_boxes_and_keypoints_come_back(rng, kernel, rule):
    numbers = {"resize": kernel, "size_rounding": rule, "canvas": "exact"}
    images = prepare_image(drawn(rng, 123, 77), InputConfig(min_size=200, max_size=300, **numbers))
    corners = np.sort(rng.uniform(0, [77, 123], (1, 5, 2, 2)), axis=2).reshape(1, 5, 4)
    boxes = torch.tensor(corners, dtype=torch.float32)
    back = boxes_to_image(to_canvas(boxes, images.scales, inclusive=False), images)
    assert torch.allclose(back, boxes, atol=1e-4)
    keypoints, (y, x) = torch.rand(1, 5, 4, 3) * 70, images.scales[0].tolist()
    back = keypoints_to_image(keypoints * torch.tensor([x, y, 1.0]), images)
    assert torch.allclose(back, keypoints, atol=1e-4)
    whole = torch.tensor([[[0.0, 0.0, images.sizes[0, 1], images.sizes[0, 0]]]])
    assert torch.allclose(boxes_to_image(whole, images), torch.tensor([0.0, 0.0, 77.0, 123.0]), atol=0.3)


def test_boxes_beyond_the_image_are_cut_to_it(rng):
    images = prepare_image(drawn(rng, 100, 200), InputConfig(min_size=200, max_size=400))
    boxes = torch.tensor([[[-4.0, 10.0, 500.0, 230.0]]])
    assert boxes_to_image(boxes, images).tolist() == [[[0.0, 5.0, 200.0, 100.0]]]


def test_detectrons_boxes_come_back_to_the_pixel(rng):
    """Detectron divides the index of the last pixel: 28 / 2 = 14, which covers up to 15. The plain rule gives 14.5."""
    images = prepare_image(drawn(rng, 50, 60), InputConfig(min_size=100, max_size=400))
    boxes = torch.tensor([[[10.0, 20.0, 29.0, 41.0], [90.0, 80.0, 130.0, 100.0]]])
    assert boxes_to_image(boxes, images, inclusive=True).tolist() == [[[5, 10, 15, 21], [45, 40, 60, 50]]]
    assert boxes_to_image(boxes, images)[0, 0].tolist() == [5, 10, 14.5, 20.5]


def test_a_bright_spot_stays_where_its_box_goes():
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[20:30, 50:70] = 255
    images = prepare_image(image, InputConfig(min_size=120, max_size=400))
    box = to_canvas(torch.tensor([[[50.0, 20.0, 70.0, 30.0]]]), images.scales, inclusive=False)
    x1, y1, x2, y2 = box[0, 0].int().tolist()
    assert (images.pixels[0, :, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] == 255).all()
    outside = images.pixels.clone()
    outside[0, :, y1 - 2 : y2 + 2, x1 - 2 : x2 + 2] = 0
    assert not outside.any()
