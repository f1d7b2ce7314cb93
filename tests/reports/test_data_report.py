"""The page of a data set: one file, everything escaped, every problem shown, images as the trainer sees them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.config import AugmentConfig, Config, InputConfig, ModelConfig
from maskrcnn.data.augment import augment
from maskrcnn.data.check import unreadable_images
from maskrcnn.data.formats import read_dataset
from maskrcnn.reports.data_report import Part, choose_images, outline_of, write_data_report
from tests.data.test_augment import l_shape, record_of
from tests.reports.test_run_report import Page, embedded

EVIL = "<script>alert('x')</script> & \"co\""
CONFIG = Config(model=ModelConfig(input=InputConfig(min_size=0, max_size=400)))


def write(folder: Path, count: int = 6) -> Path:
    """Red squares on grey. Image 0 has a class of its own, image 1 nothing; one object of image 2 is out of bounds."""
    images, rows = [], []
    for i in range(count):
        pixels = np.full((80, 100, 3), 90, dtype=np.uint8)
        name = f"{i}&<b>.png"
        images.append({"id": i, "file_name": name, "height": 80, "width": 100})
        if i != 1:
            pixels[20:50, 30:70] = (220, 30, 30)
            square = [[30, 20, 70, 20, 70, 50, 30, 50]]
            label = 2 if i == 0 else 1
            rows.append(
                {"id": i, "image_id": i, "category_id": label, "bbox": [30, 20, 40, 30], "segmentation": square}
            )
        Image.fromarray(pixels).save(folder / name)
    rows.append({"id": 50, "image_id": 2, "category_id": 1, "bbox": [500, 500, 10, 10]})
    rows.append({"id": 51, "image_id": 3, "category_id": 9, "bbox": [1, 1, 9, 9]})
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": EVIL}]
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    data = read_dataset(write(folder))
    (folder / "5&<b>.png").write_bytes(b"broken")
    parts = [Part("train", data, unreadable_images(data)), Part("val", data.subset([0, 1]))]
    config = replace(CONFIG, train=replace(CONFIG.train, augment=AugmentConfig(crop=64, vertical_flip=1.0)))
    return write_data_report(folder / "report", parts, config, [f"  model: R-18 ({EVIL})"])


def test_the_page_is_one_well_formed_file(page: Path) -> None:
    assert page.name == "report.html"
    text = page.read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.open == ["html"] or parsed.open == []
    assert "http" not in text.replace("http-equiv", "")
    assert all(source.startswith("data:image/jpeg;base64,") for source in parsed.sources)
    for source in parsed.sources:
        assert max(embedded(source).shape) <= 480
    assert "prefers-color-scheme: dark" in text


def test_nothing_from_the_file_is_html(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>.png" not in text
    assert "".join(Page(page).texts).count(EVIL) >= 2  # in the table of classes and in the line of the recipe


def test_every_part_is_there(page: Path) -> None:
    words = "".join(Page(page).texts)
    for heading in ("Images", "Classes", "Sizes of the objects", "What training would choose", "Problems in train: "):
        assert heading in words
    assert "annotation 50" in words  # left out: its image is shown
    assert "annotation 51" in words
    assert "image 5" in words  # cannot be read
    assert "Problems in val" in words
    images = len(Page(page).sources)
    assert images == 2 * 5 + 2  # five pairs, one image is broken; two problems


def test_counts_by_class_are_those_of_the_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<td>square</td><td>4</td><td>4</td><td>0</td><td>0</td>" in text
    assert "<td>1</td><td>1</td><td>1</td><td>1</td>" in text


def test_images_show_every_class_and_rare_ones_first(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, 40))
    chosen = choose_images(data, 5)
    assert chosen[0] == 0  # the only one with the second class
    assert len(chosen) == len(set(chosen)) == 5
    assert 1 not in chosen  # empty ones only if there is nothing else
    assert choose_images(data, 99) == list(range(40))
    assert choose_images(data.subset([1])) == [0]


@pytest.mark.parametrize("target", ["hard", "soft", "polygon"])
def test_outlines_lie_where_the_image_shows_the_object(target) -> None:
    """Mirrored, turned and cropped in any way: half of a pixel's diagonal off at most, plus a cell of the mask."""
    bitmap, outline = l_shape()
    image = np.where(bitmap[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    record = record_of([outline], bitmap.shape, boxes=[[30, 20, 80, 70]])
    model = replace(CONFIG.model, mask_head=replace(CONFIG.model.mask_head, target=target))
    config = AugmentConfig(horizontal_flip=0.5, vertical_flip=0.5, rotate90=True)
    for seed in range(12):
        sample = augment(image, record, np.random.default_rng(seed), config, model)
        (ring,) = outline_of(sample, 0).outer
        ys, xs = np.nonzero(sample.image[..., 0] > 127)
        assert np.abs(ring.min(axis=0) - [xs.min(), ys.min()]).max() <= 1.0
        assert np.abs(ring.max(axis=0) - [xs.max() + 1, ys.max() + 1]).max() <= 1.0
        x, y = np.roll(ring, -1, axis=0).T
        area = abs(np.dot(ring[:, 0], y) - np.dot(ring[:, 1], x)) / 2
        assert abs(area - bitmap.sum()) < 0.08 * bitmap.sum()


def test_a_data_set_without_objects_has_a_page_too(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path)).subset([1])
    page = write_data_report(tmp_path / "page.html", [Part("train", data)], CONFIG)
    assert page == tmp_path / "page.html"
    assert "there are no objects to learn from" in "".join(Page(page).texts)


def test_categories_need_no_objects(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path))
    data = replace(data, categories=(*data.categories, Category(7, "never")))
    page = write_data_report(tmp_path, [Part("train", data)], CONFIG)
    assert "<td>never</td><td>0</td><td>0</td>" in page.read_text()
