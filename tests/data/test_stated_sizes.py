"""Sizes that a file states and that its images do not have: what the objects prove."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.formats import read_dataset
from maskrcnn.data.usable import reason_to_stop
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.coco_files import coco, write

HEIGHT, WIDTH = 40, 80
CORNERS = [(4, 3, 20, 18), (60, 5, 78, 21), (55, 22, 79, 36), (8, 20, 31, 38)]


def rle(x1, y1, x2, y2):
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[y1:y2, x1:x2] = True
    return {"size": [HEIGHT, WIDTH], "counts": counts_from_bitmap(bitmap).tolist()}


def read(folder, size, corners=CORNERS, *, masks=False, exif=None):
    """A data set of two images that state this (height, width), with these objects in each."""
    images = [{"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]} for i in (1, 2)]
    annotations = [
        {"id": 10 * i + k, "image_id": i, "category_id": 0, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        | {"segmentation": rle(x1, y1, x2, y2) if masks else [[x1, y1, x2, y1, x2, y2, x1, y2]]}
        for i in (1, 2)
        for k, (x1, y1, x2, y2) in enumerate(corners)
    ]
    path = write(folder, coco(images=images, annotations=annotations))
    for i in (1, 2):
        Image.new("L", (WIDTH, HEIGHT)).save(folder / f"{i}.png", **({} if exif is None else {"exif": exif}))
    return read_dataset(path)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT // 2, WIDTH // 2), (31, 47)])
def test_objects_beyond_the_stated_size_prove_that_of_the_file(size, masks, tmp_path) -> None:
    data = read(tmp_path, size, masks=masks)
    assert data.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    np.testing.assert_array_equal(data.record(1).boxes, CORNERS)
    assert data.report.problems == []
    assert "2 of 2 images have another size than is stated, such as 40 x 80" in data.report.contradictions[0].sentence
    assert reason_to_stop(data, masks=True) is None


def test_run_lengths_prove_a_smaller_file(tmp_path) -> None:
    assert read(tmp_path, (2 * HEIGHT, 2 * WIDTH), masks=True).sizes.tolist() == [[HEIGHT, WIDTH]] * 2


@pytest.mark.parametrize(
    ("size", "corners", "words"),
    [
        ((WIDTH, HEIGHT), [(1, 2, 9, 8), (20, 5, 36, 30)], "exchanged"),  # nothing reaches beyond 40
        ((2 * HEIGHT, 2 * WIDTH), CORNERS, "resized by 0.5"),
    ],
)
def test_nothing_is_proved_by_objects_that_fit_both(size, corners, words, tmp_path) -> None:
    data = read(tmp_path, size, corners)
    assert data.sizes.tolist() == [list(size)] * 2
    reason = str(reason_to_stop(data, masks=True))
    assert words in reason
    assert "delete width and height" in reason


def test_a_careless_object_proves_nothing(tmp_path) -> None:
    inside = [(1, 1 + k, 20, 9 + k) for k in range(25)]
    data = read(tmp_path, (HEIGHT, WIDTH // 2), [*inside, (3, 3, 42, 20)])
    assert data.sizes.tolist() == [[HEIGHT, WIDTH // 2]] * 2


def test_an_image_annotated_before_its_rotation_keeps_its_size(tmp_path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the upright image is 80 x 40
    data = read(tmp_path, (HEIGHT, WIDTH), exif=exif)
    assert data.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert data.report.contradictions == []
    data = read(tmp_path, (WIDTH, HEIGHT), exif=exif)  # upright, but the objects are not
    assert "none would if x and y were exchanged" in str(data.report.unusable)
