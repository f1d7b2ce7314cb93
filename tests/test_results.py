"""Results: from the canvas to the image by hand, RLE and rows as pycocotools reads them, files."""

import json
import pickle
import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.config import BoxArithmetic, KeypointHeadConfig, MaskHeadConfig, ModelConfig
from maskrcnn.errors import ConfigError
from maskrcnn.results import Result, from_detections
from maskrcnn.structures import Detections, Images
from tests.ops.definitions import counts_from_string

CATEGORIES = (
    Category(3, "cat", keypoints=("nose", "tail"), skeleton=((0, 1),)),
    Category(17, "dog"),
    Category(40, "fly", keypoints=("wing",)),
)
CONFIG = ModelConfig(keypoint_head=KeypointHeadConfig(shift=0.0))


def batch_of_two():
    """Two images on one canvas: the first was halved along y and kept along x, the second enlarged threefold."""
    images = Images(
        pixels=torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        sizes=torch.tensor([[20, 60], [30, 60]]),
        original_sizes=torch.tensor([[40, 60], [10, 20]]),
        scales=torch.tensor([[0.5, 1.0], [3.0, 3.0]]),
        seeds=torch.zeros(2, dtype=torch.int64),
    )
    boxes = torch.zeros(2, 3, 4)
    boxes[0, 0] = torch.tensor([10.0, 5.0, 30.0, 15.0])
    boxes[0, 1] = torch.tensor([50.0, 10.0, 64.0, 30.0])  # beyond the image
    boxes[0, 2] = torch.tensor([61.0, 1.0, 64.0, 9.0])  # entirely beyond it
    boxes[1, 0] = torch.tensor([3.0, 6.0, 33.0, 24.0])
    boxes[1, 1:] = float("nan")
    detections = Detections(
        boxes=boxes,
        scores=torch.tensor([[0.9, 0.8, 0.7], [0.6, 5.0, 5.0]]),
        labels=torch.tensor([[1, 0, 0], [2, 0, 0]]),
        masks=torch.ones(2, 3, 28, 28),
        keypoints=torch.tensor([6.0, 12.0, 0.5]).repeat(2, 3, 3, 1),
        valid=torch.tensor([[True, True, True], [True, False, False]]),
    )
    return detections, images


def test_boxes_of_the_canvas_come_back_cut_to_the_image() -> None:
    first, second = from_detections(*batch_of_two(), CONFIG, CATEGORIES)
    assert first.size == (40, 60)
    np.testing.assert_allclose(first.boxes, [[10, 10, 30, 30], [50, 20, 60, 40]])
    np.testing.assert_allclose(second.boxes, [[1, 2, 11, 8]])
    assert first.labels.tolist() == [17, 3]
    assert first.names == ["dog", "cat"]
    assert second.names == ["fly"]
    np.testing.assert_allclose(first.scores, [0.9, 0.8])
    assert repr(first) == "Result(image, 40 x 60: 1 dog, 1 cat)"


def test_each_object_has_the_keypoints_of_its_category_alone() -> None:
    first, second = from_detections(*batch_of_two(), CONFIG, CATEGORIES)
    np.testing.assert_allclose(first.keypoints[0], np.zeros((3, 3)))  # a dog has none
    np.testing.assert_allclose(first.keypoints[1], [[6, 24, 0.5], [6, 24, 0.5], [0, 0, 0]])
    np.testing.assert_allclose(second.keypoints[0], [[0, 0, 0], [0, 0, 0], [2, 4, 0.5]])
    rows = first.to_coco() + second.to_coco()
    assert "keypoints" not in rows[0]
    assert rows[1]["keypoints"] == [6, 24, 0.5, 6, 24, 0.5]
    assert rows[2]["keypoints"] == [2, 4, 0.5]


def test_keypoints_that_all_categories_share_belong_to_each_object() -> None:
    shared = tuple(Category(c.id, c.name, keypoints=("a", "b", "c"), shared=True) for c in CATEGORIES)
    first, second = from_detections(*batch_of_two(), CONFIG, shared)
    assert (first.keypoints[:, :, 2] == 0.5).all()  # also the dog's
    assert [len(row["keypoints"]) for row in first.to_coco() + second.to_coco()] == [9, 9, 9]


def test_masks_rle_and_polygons_say_the_same() -> None:
    result = from_detections(*batch_of_two(), CONFIG, CATEGORIES)[0]
    answer = np.zeros((2, 40, 60), dtype=bool)
    answer[0, 10:30, 10:30] = True
    answer[1, 20:40, 50:60] = True
    np.testing.assert_array_equal(result.masks, answer)
    np.testing.assert_array_equal(result.mask(1), answer[1])
    np.testing.assert_array_equal(counts_from_string(result.rle[1]["counts"]), [50 * 40 + 20, *[20] * 19])
    assert result.polygons is not None
    for polygons, box in zip(result.polygons, result.boxes, strict=True):
        (ring,) = polygons
        np.testing.assert_allclose([*ring.min(axis=0), *ring.max(axis=0)], box)


def with_rules(**rules: Any) -> ModelConfig:
    return replace(CONFIG, mask_head=MaskHeadConfig(**rules))


def test_the_paste_rule_and_threshold_are_used() -> None:
    detections, images = batch_of_two()
    exact = from_detections(detections, images, CONFIG, CATEGORIES)[0]
    padded = from_detections(detections, images, with_rules(paste="padded"), CATEGORIES)[0]
    assert detections.masks is not None
    faint = detections._replace(masks=detections.masks * 0.6)
    strict = from_detections(faint, images, with_rules(threshold=0.7), CATEGORIES)[0]
    assert padded.masks.sum() > exact.masks.sum()
    assert padded.rle != exact.rle
    assert not strict.masks.any()


def test_detectrons_boxes_are_a_pixel_wider_than_what_their_masks_are_laid_over() -> None:
    """On the canvas the last pixels of the first box are 29 and 14, in the image 29 and 28: boxes end at 30 and 29.

    A mask of ones over the box 10, 10, 29, 28 covers the 19 x 18 pixels whose centres lie inside.
    """
    config = replace(CONFIG, box_arithmetic=BoxArithmetic(inclusive=True))
    first, second = from_detections(*batch_of_two(), config, CATEGORIES)
    np.testing.assert_allclose(first.boxes, [[10, 10, 30, 29], [50, 20, 60, 40]])
    np.testing.assert_allclose(second.boxes, [[1, 2, 32 / 3 + 1, 23 / 3 + 1]], rtol=1e-6)
    assert [row["bbox"] for row in first.to_coco()] == [[10, 10, 20, 19], [50, 20, 10, 20]]
    answer = np.zeros((2, 40, 60), dtype=bool)
    answer[0, 10:28, 10:29] = True
    answer[1, 20:39, 50:59] = True
    np.testing.assert_array_equal(first.masks, answer)
    np.testing.assert_array_equal(first.mask(0), answer[0])
    assert first.rle is not None
    assert [sum(counts_from_string(rle["counts"])[1::2]) for rle in first.rle] == [19 * 18, 9 * 19]
    assert first.outlines is not None
    ring = first.outlines[0].outer[0]
    np.testing.assert_allclose([*ring.min(axis=0), *ring.max(axis=0)], [10, 10, 29, 28])
    np.testing.assert_array_equal(first.select([1]).masks, answer[1:])
    np.testing.assert_allclose(first.keypoints[1, 0], [6, 24, 0.5])  # keypoints are points: nothing is added


def test_a_model_without_masks_and_keypoints() -> None:
    detections, images = batch_of_two()
    result = from_detections(detections._replace(masks=None, keypoints=None), images, CONFIG, CATEGORIES)[0]
    assert result.masks is None
    assert result.rle is None
    assert result.polygons is None
    assert result.keypoints is None
    assert set(result.to_coco()[0]) == {"image_id", "category_id", "bbox", "score"}
    with pytest.raises(ConfigError, match="no masks"):
        result.mask(0)


def test_rows_are_what_pycocotools_reads() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    result = from_detections(*batch_of_two(), CONFIG, CATEGORIES, image_ids=[7, 8])[0]
    rows = json.loads(json.dumps(result.to_coco()))
    assert [row["image_id"] for row in rows] == [7, 7]
    assert [row["category_id"] for row in rows] == [17, 3]
    assert rows[1]["bbox"] == [50, 20, 10, 20]
    assert rows[0]["score"] == pytest.approx(0.9)
    assert [int(coco.area(row["segmentation"])) for row in rows] == [400, 200]
    assert coco.toBbox(rows[1]["segmentation"]).tolist() == [50, 20, 10, 20]
    assert result.to_coco(image_id="other")[0]["image_id"] == "other"


def test_rows_hold_indices_of_pixels_and_keypoints_hold_positions() -> None:
    """COCO gives the first pixel's index, 0, for a keypoint in its middle, which is at 0.5."""
    result = from_detections(*batch_of_two(), ModelConfig(), CATEGORIES)[0]
    dog, cat = result.to_coco()
    assert "keypoints" not in dog
    np.testing.assert_allclose(result.keypoints[1], [[6, 24, 0.5], [6, 24, 0.5], [0, 0, 0]])
    assert cat["keypoints"] == [5.5, 23.5, 0.5] * 2


def test_select_keeps_objects_together() -> None:
    result = from_detections(*batch_of_two(), CONFIG, CATEGORIES)[0]
    kept = result.select(result.scores < 0.85)
    assert len(kept) == 1
    assert kept.names == ["cat"]
    assert [len(part or []) for part in (kept.rle, kept.outlines)] == [1, 1]
    assert [part is not None and len(part) for part in (kept.small_masks, kept.keypoints)] == [1, 1]
    assert result.select([1, 0]).labels.tolist() == [3, 17]
    assert len(result.select([])) == 0


def test_save_writes_image_and_rows(tmp_path) -> None:
    Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / "one.jpg")
    result = from_detections(*batch_of_two(), CONFIG, CATEGORIES, [tmp_path / "one.jpg", None])[0]
    files = result.save(tmp_path / "deep" / "out", formats=["overlay", "coco"])
    assert files == [tmp_path / "deep" / "out" / "one.png", tmp_path / "deep" / "out" / "one.json"]
    with Image.open(files[0]) as image:
        assert image.mode == "RGB"
        assert image.width / image.height == 1.5
    rows = json.loads(files[1].read_text())
    assert rows == result.to_coco()
    assert rows[0]["image_id"] == "one"
    assert [file.name for file in result.save(tmp_path, ["coco"], name="other")] == ["other.json"]
    own = replace(result, path=files[0])
    with pytest.raises(ConfigError, match="another folder"):
        own.save(files[0].parent, ["overlay"])
    for wrong in (["coco", "svg"], "coco"):
        with pytest.raises(ConfigError, match=r"overlay\W+coco"):
            result.save(tmp_path, wrong)


def test_an_image_without_detections() -> None:
    detections, images = batch_of_two()
    nothing = detections._replace(valid=torch.zeros(2, 3, dtype=torch.bool))
    result = from_detections(nothing, images, CONFIG, CATEGORIES)[0]
    assert len(result) == 0
    assert result.masks.shape == (0, 40, 60)
    assert result.rle == result.polygons == result.to_coco() == result.names == []
    assert "nothing" in repr(result)


def test_an_unknown_category_has_a_name() -> None:
    result = Result((4, 4), np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([99]), categories=CATEGORIES)
    assert result.names == ["category 99"]


# --- one object at a time, and other libraries -----------------------------------------------------------------------


def found(**changes) -> Result:
    masks = np.zeros((2, 28, 28), np.float32)
    masks[0] = 1
    masks[1, :, :14] = 1
    fields: dict[str, Any] = {
        "size": (30, 40),
        "boxes": np.array([[2, 4, 10, 12], [20, 10, 40, 30]], np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
        "labels": np.array([17, 3]),
        "small_masks": masks,
        "categories": CATEGORIES,
        "image": np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3),
    }
    return Result(**{**fields, **changes})


def test_objects_come_one_by_one() -> None:
    result = found()
    assert [(one.name, one.label, one.score) for one in result] == [
        ("dog", 17, pytest.approx(0.9)),
        ("cat", 3, pytest.approx(0.8)),
    ]
    assert result.counts == {"dog": 1, "cat": 1}
    last = result[-1]
    assert repr(last) == "Instance(cat, 0.80, box [20.0, 10.0, 40.0, 30.0])"
    assert last.mask.sum() == 20 * 10
    assert last.polygons is not None
    assert last.polygons[0].min(axis=0) == pytest.approx([20, 10])
    assert last.keypoints is None
    with pytest.raises(IndexError):
        result[2]


def test_a_crop_is_the_box_with_its_margin() -> None:
    result = found()
    assert np.array_equal(np.asarray(result.crop(0)), result.image[4:12, 2:10])
    assert result.crop(0, margin=0.25).size == (12, 12)
    assert result.crop(1, margin=1.0).size == (40, 30)  # ends with the image


def test_a_table_has_the_columns_of_csv() -> None:
    pytest.importorskip("pandas")
    frame = found().to_df()
    assert frame["class"].tolist() == ["dog", "cat"]
    assert frame["score"].tolist() == pytest.approx([0.9, 0.8])
    assert frame[["x", "y", "width", "height", "area"]].to_numpy().tolist() == [[2, 4, 8, 8, 64], [20, 10, 20, 20, 200]]
    assert frame["id"].dtype == "int64"
    assert "intensity_2" in frame
    assert len(found().select([]).to_df()) == 0


def test_supervision_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, **fields: Any) -> None:
            self.fields = fields

    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Fake))
    fields = found().to_supervision().fields
    assert fields["xyxy"].shape == (2, 4)
    assert fields["mask"].sum(axis=(1, 2)).tolist() == [64, 200]
    assert fields["class_id"].tolist() == [17, 3]
    assert fields["data"]["class_name"].tolist() == ["dog", "cat"]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        found().to_supervision()


def test_a_notebook_shows_overlay_and_counts() -> None:
    page = found(categories=(*CATEGORIES[:1], Category(17, "<dog>")))._repr_html_()
    assert "&lt;dog&gt;</td><td>1" in page
    assert "data:image/png" in page
    png = found()._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")
    without = found(image=None)  # neither an image nor a file
    assert without._repr_png_() is None
    assert "<img" not in without._repr_html_()


def test_a_result_survives_pickling() -> None:
    result = found()
    again = pickle.loads(pickle.dumps(result))
    assert again.counts == result.counts
    assert np.array_equal(again.mask(1), result.mask(1))
