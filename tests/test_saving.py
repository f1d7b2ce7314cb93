"""Results in every format: a record says what the result says, and each format has a place of its own."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.shapes import segmentation_of_rings
from maskrcnn.errors import ConfigError
from maskrcnn.ops.contour import signed_area
from maskrcnn.results import Result
from maskrcnn.saving import Saver

CATEGORIES = (Category(3, "cat", keypoints=("nose", "tail")), Category(17, "dog"))
SIZE = (40, 60)


def ring_mask() -> np.ndarray:
    """Set around a hole in its middle."""
    mask = np.ones((28, 28), np.float32)
    mask[9:19, 9:19] = 0
    return mask


def result(path: Path | None = None, **more) -> Result:
    """A dog with a hole and a cat, which has keypoints."""
    keypoints = np.array([[[0, 0, 0], [0, 0, 0]], [[20.5, 30.5, 0.5], [21.5, 31.5, -2.0]]], np.float32)
    return Result(
        size=SIZE,
        boxes=np.array([[2, 2, 30, 30], [31, 5, 59, 19]], np.float32),
        scores=np.array([0.75, 0.25], np.float32),
        labels=np.array([17, 3]),
        small_masks=np.stack([ring_mask(), np.ones((28, 28), np.float32)]),
        keypoints=keypoints,
        categories=CATEGORIES,
        path=path,
        keypoint_shift=0.5,
        **more,
    )


def images(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (90, 80, 70)).save(folder / name)
    return [folder / name for name in names]


def test_a_record_is_an_annotated_image_with_scores() -> None:
    found = result(Path("some") / "one.jpg")
    record = found.record(7, first_id=5)
    assert record.scores is not None
    assert record.keypoints is not None
    assert (record.image_id, record.path, record.name, record.size) == (7, Path("some/one.jpg"), "one.jpg", SIZE)
    assert record.labels.tolist() == [1, 0]
    assert record.annotation_ids.tolist() == [5, 6]
    assert not record.ignore.any()
    np.testing.assert_allclose(record.boxes, found.boxes)
    np.testing.assert_allclose(record.scores, [0.75, 0.25])
    for i, segmentation in enumerate(record.segmentations):
        np.testing.assert_array_equal(draw_bitmap(segmentation, SIZE), found.mask(i))
    assert record.areas.tolist() == [found.mask(i).sum() for i in range(2)]
    np.testing.assert_allclose(record.keypoints, [[[0, 0, 0]] * 2, [[20, 30, 2], [21, 31, 2]]])


def test_holes_are_in_the_part_around_them_and_draw_the_same_mask() -> None:
    found = result()
    record = found.record()
    assert record.shapes is not None
    dog, cat = record.shapes
    assert ([len(shape.holes) for shape in dog], [len(shape.holes) for shape in cat]) == ([1], [0])
    for i, shapes in enumerate(record.shapes):
        rings = [ring for shape in shapes for ring in (shape.outer, *shape.holes)]
        drawn = draw_bitmap(segmentation_of_rings(rings, SIZE), SIZE)
        assert (drawn != found.mask(i)).sum() <= 4  # the outlines are finer than pixels
        assert sum(map(signed_area, rings)) == pytest.approx(found.mask(i).sum(), rel=0.02)
    assert found.record(shapes=False).shapes is None


def test_a_hole_that_ends_with_the_image_is_not_lost() -> None:
    """The box reaches beyond the image, so the outline of the hole is cut where the outer one is."""
    cut = result()
    cut.boxes[0] = [-14, 2, 14, 30]
    (shape,) = (cut.record().shapes or [])[0]
    assert len(shape.holes) == 1


def test_records_without_objects_masks_or_a_file() -> None:
    none = result().select([]).record()
    assert (none.segmentations, none.shapes, len(none.boxes)) == ([], [], 0)
    boxes = Result(SIZE, *(getattr(result(), name) for name in ("boxes", "scores", "labels")), categories=CATEGORIES)
    record = boxes.record()
    assert record.segmentations == [None, None]
    assert record.shapes is record.keypoints is None
    assert record.areas.tolist() == [784, 392]
    assert record.name == "image.png"
    with pytest.raises(ConfigError, match="labels without a category: 3, 17"):
        Result(SIZE, boxes.boxes, boxes.scores, boxes.labels).record()


def test_every_format_has_its_place(tmp_path: Path) -> None:
    first, second, third = images(tmp_path / "in", "a.png", "b.png", "more/a.png")
    out = tmp_path / "out"
    with Saver(out, ["overlay", "coco", "geojson", "csv"], CATEGORIES) as saver:
        assert [saver.add(result(path)) for path in (first, second, third)] == ["a", "b", "a-2"]
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("[!.]*.*"))
    names = ["a-2", "a", "b"]
    geojson = [f"geojson/{name}.geojson" for name in names]
    assert found == sorted([*(f"{name}.png" for name in names), *geojson, "objects.csv", "results.json"])
    rows = json.loads((out / "results.json").read_text())
    assert [row["image_id"] for row in rows] == ["a", "a", "b", "b", "a-2", "a-2"]
    with (out / "objects.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == ["a.png", "a.png", "b.png", "b.png", "a-2.png", "a-2.png"]
    assert [row["id"] for row in table] == list("123456")
    assert table[0]["intensity_0"] == "90.0"
    features = json.loads((out / "geojson" / "a.geojson").read_text())["features"]
    assert [feature["properties"]["classification"]["name"] for feature in features] == ["dog", "cat"]
    assert saver.lost == {"geojson": {"keypoints of an object": 3}}


def test_a_second_run_replaces_the_first_but_nothing_that_was_corrected(tmp_path: Path) -> None:
    (path,) = images(tmp_path / "in", "a.png")
    for _ in range(2):
        with Saver(tmp_path / "out", ["geojson", "coco"], CATEGORIES) as saver:
            saver.add(result(path))
    corrected = tmp_path / "out" / "geojson" / "a.geojson"
    corrected.write_text("{}")
    with pytest.raises(ConfigError, match=r"changed since, such as a\.geojson"):
        Saver(tmp_path / "out", ["geojson", "coco"], CATEGORIES)
    assert corrected.read_text() == "{}"


def test_an_error_leaves_no_half_table_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (path,) = images(tmp_path / "in", "a.png")

    def interrupted() -> None:
        with Saver(tmp_path / "out", ["geojson", "coco", "csv"], CATEGORIES) as saver:
            saver.add(result(path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["geojson"]
    with Saver(tmp_path / "out", ["geojson"], CATEGORIES):
        pass


def test_no_result_gives_an_empty_list(tmp_path: Path) -> None:
    with Saver(tmp_path, ["coco"], CATEGORIES):
        pass
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_one_result_can_be_saved_alone(tmp_path: Path) -> None:
    (path,) = images(tmp_path / "in", "a.png")
    files = result(path).save(tmp_path / "out", ["geojson", "csv"])
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["out/geojson/a", "out/csv/a"]
    assert (files[0] / "a.geojson").exists()
    assert (files[1] / "objects.csv").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["geojsn"], r"no format 'geojsn' to write; did you mean geojson\?"),
        (["xyz"], "there are overlay, coco, "),
        ("coco", "list"),
    ],
)
def test_an_unknown_format_is_named_with_the_nearest(names, message, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Saver(tmp_path / "out", names, CATEGORIES)
    with pytest.raises(ConfigError, match=message):
        result().save(tmp_path / "out", names)
    assert not (tmp_path / "out").exists()
