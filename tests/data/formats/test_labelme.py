"""LabelMe's files: as LabelMe 5 writes them by hand, as users leave them, and as our writer makes them."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import find, read_dataset, writer
from maskrcnn.errors import DataError
from tests.data.formats.round_trip import (
    CATEGORIES,
    ISLAND,
    PARTS,
    Drawn,
    mask_of,
    objects_of,
    predictions_of,
    record_of,
    write_all,
)

SQUARE = [[2.0, 1.0], [6.0, 1.0], [6.0, 5.0], [2.0, 5.0]]
INNER = [[3.0, 2.0], [5.0, 2.0], [5.0, 4.0], [3.0, 4.0]]
RIGHT = [[8.0, 1.0], [10.0, 1.0], [10.0, 5.0], [8.0, 5.0]]


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    """A shape as LabelMe 5.4 writes it."""
    common = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return common | {"mask": None} | more


def png(pixels: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(folder: Path, stem: str, shapes: Any, *, image: str | None = None, size=(8, 12), **more: Any) -> Path:
    """A json and, unless `image` is given, its image beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if image is None:
        Image.new("RGB", size[::-1]).save(folder / f"{stem}.png")
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image or f"{stem}.png",
        "imageData": None,
    }
    content |= {"imageHeight": size[0], "imageWidth": size[1]} | more
    (folder / f"{stem}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder / f"{stem}.json"


def block(top: int, bottom: int, left: int, right: int, size=(8, 12)) -> np.ndarray:
    bitmap = np.zeros(size, bool)
    bitmap[top:bottom, left:right] = True
    return bitmap


def masks_of(data: Any, i: int = 0) -> list[np.ndarray]:
    record = data.record(i)
    return [draw_bitmap(mask, record.size) for mask in record.segmentations]


def reasons(data: Any) -> list[str]:
    return sorted(problem.reason for problem in data.report.problems)


# --- what the tool writes ------------------------------------------------------------------------------------------


def test_every_shape_is_what_labelme_draws(tmp_path) -> None:
    shapes = [
        shape("cat", SQUARE),
        shape("dog", [[9.0, 7.0], [1.0, 6.0]], "rectangle"),
        shape("cat", [[6.0, 4.0], [6.0, 1.0]], "circle"),
        shape("dog", [[2.0, 3.0], [4.0, 4.0]], "mask", mask=png([[1, 0, 1], [255, 255, 0]])),
        shape("cat", [[0.0, 0.0], [3.0, 3.0]], "line"),
        shape("cat", [[1.0, 1.0]], "point"),
        shape("cat", [[1.0, 1.0], [2.0, 2.0], [3.0, 1.0]], "linestrip"),
    ]
    data = read_dataset(write(tmp_path, "a", shapes))
    record, masks = data.record(0, exact=True), masks_of(data)
    assert [category.name for category in data.categories] == ["cat", "dog"]
    assert record.labels.tolist() == [0, 1, 0, 1]
    assert record.size == (8, 12)
    np.testing.assert_array_equal(masks[0], block(1, 5, 2, 6))
    assert record.segmentations[1] is None  # a rectangle is a box
    assert record.boxes[1].tolist() == [1, 6, 9, 7]
    np.testing.assert_allclose(record.boxes[2], [3, 1, 9, 7], atol=0.06)
    assert record.areas[2] == pytest.approx(9 * np.pi, rel=1e-6)
    assert np.argwhere(masks[3]).tolist() == [[3, 2], [3, 4], [4, 2], [4, 3]]
    assert reasons(data) == ["shape that is no area"] * 3


def test_a_turned_rectangle_is_a_mask(tmp_path) -> None:
    turned = [[4.0, 1.0], [6.0, 3.0], [4.0, 5.0], [2.0, 3.0]]
    data = read_dataset(
        write(tmp_path, "a", [shape("x", turned, "oriented_rectangle"), shape("x", turned, "rotation")])
    )
    assert data.record(0).boxes.tolist() == [[2, 1, 6, 5]] * 2
    assert [mask.sum() for mask in masks_of(data)] == [8, 8]


def test_a_group_is_one_object_and_an_outline_inside_another_is_a_hole(tmp_path) -> None:
    shapes = [
        shape("ring", SQUARE, group_id=3),
        shape("other", RIGHT, group_id=3),
        shape("ring", INNER, group_id=3, difficult=True),  # as X-AnyLabeling's users do
        shape("ring", RIGHT, group_id=3),
        shape("ring", RIGHT, group_id=None),
    ]
    data = read_dataset(write(tmp_path, "a", shapes))
    assert data.record(0).labels.tolist() == [1, 0, 1]  # other, ring
    ring = block(1, 5, 2, 6) & ~block(2, 4, 3, 5)
    for mask, expected in zip(
        masks_of(data), (ring | block(1, 5, 8, 10), block(1, 5, 8, 10), block(1, 5, 8, 10)), strict=True
    ):
        np.testing.assert_array_equal(mask, expected)


def test_rectangles_of_one_group_are_a_box_around_them(tmp_path) -> None:
    parts = [
        shape("cat", [[1, 2], [3, 5]], "rectangle", group_id=1),
        shape("cat", [[6, 1], [9, 4]], "rectangle", group_id=1),
    ]
    record = read_dataset(write(tmp_path, "a", parts)).record(0)
    assert (record.boxes.tolist(), record.segmentations) == ([[1, 1, 9, 5]], [None])


def test_parts_that_only_overlap_are_united(tmp_path) -> None:
    moved = [[x + 2, y + 1] for x, y in SQUARE]
    data = read_dataset(write(tmp_path, "a", [shape("x", SQUARE, group_id=0), shape("x", moved, group_id=0)]))
    np.testing.assert_array_equal(masks_of(data)[0], block(1, 5, 2, 6) | block(2, 6, 4, 8))
    assert isinstance(data.record(0).segmentations[0], list)  # still the outlines that were drawn


def test_background_cuts_a_hole_into_what_was_drawn_before(tmp_path) -> None:
    shapes = [shape("x", SQUARE), shape("_background_", INNER), shape("x", INNER), shape("__ignore__", RIGHT)]
    data = read_dataset(write(tmp_path, "a", shapes))
    first, second = masks_of(data)
    np.testing.assert_array_equal(first, block(1, 5, 2, 6) & ~block(2, 4, 3, 5))
    np.testing.assert_array_equal(second, block(2, 4, 3, 5))
    assert [category.name for category in data.categories] == ["x"]
    assert reasons(data) == ["shape labelled __ignore__, left out"]


def test_a_mask_may_reach_beyond_the_image_and_join_a_group(tmp_path) -> None:
    shapes = [
        shape("x", [[-1.0, 6.0], [1.0, 8.0]], "mask", mask=png(np.full((3, 3), 255)), group_id=1),
        shape("x", RIGHT, group_id=1),
    ]
    data = read_dataset(write(tmp_path, "a", shapes))
    np.testing.assert_array_equal(masks_of(data)[0], block(6, 8, 0, 2) | block(1, 5, 8, 10))


def test_flags_scores_and_numbers_as_text(tmp_path) -> None:
    shapes = [
        shape("x", SQUARE, flags={"crowd": True}),
        shape("x", [["8", "1"], ["10", "1"], ["10", "5"]], flags=None, score=0.5),
    ]
    record = read_dataset(write(tmp_path, "a", shapes)).record(0)
    assert record.ignore.tolist() == [True, False]
    np.testing.assert_array_equal(record.scores, [np.nan, 0.5])


def test_a_file_of_version_3_has_no_size_and_no_shape_type(tmp_path) -> None:
    path = write(tmp_path, "a", [])
    old = {
        "shapes": [{"label": "x", "points": SQUARE, "line_color": None, "fill_color": None}],
        "lineColor": [0, 255, 0],
    }
    path.write_text(json.dumps(old | {"imagePath": "a.png", "imageData": None}))
    data = read_dataset(path)
    assert data.record(0).size == (8, 12)
    assert data.report.problems == []


# --- where the images are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated", ["..\\images\\a.png", "../images/a.png", "C:\\Users\\me\\data\\images\\a.png", "A.PNG", "images/a%2Epng"]
)
def test_jsons_apart_from_their_images(tmp_path, stated) -> None:
    write(tmp_path / "labels", "a", [shape("x", SQUARE)], image=stated)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (12, 8)).save(tmp_path / "images" / "a.png")
    (data,) = (read_dataset(source) for source in find(tmp_path).values())
    assert data.path(0) == tmp_path / "images" / "a.png"
    assert data.name(0) == "images/a.png"
    assert read_dataset(tmp_path / "labels", tmp_path / "images").path(0) == tmp_path / "images" / "a.png"


def test_the_folder_decides_between_images_of_one_name(tmp_path) -> None:
    for slide, label in (("one", "cat"), ("two", "dog")):
        write(tmp_path / "json" / slide, "a", [shape(label, SQUARE)], image="a.png")
        (tmp_path / "images" / slide).mkdir(parents=True)
        Image.new("RGB", (12, 8)).save(tmp_path / "images" / slide / "a.png")
    data = read_dataset(tmp_path)
    assert [(data.name(i), data.categories[data.record(i).labels[0]].name) for i in range(2)] == [
        ("images/one/a.png", "cat"),
        ("images/two/a.png", "dog"),
    ]


def test_an_image_may_have_any_suffix(tmp_path) -> None:
    write(tmp_path, "a", [shape("x", SQUARE)], image="a.jfif")
    Image.new("RGB", (12, 8)).save(tmp_path / "a.jfif", "JPEG")
    assert read_dataset(tmp_path).path(0) == tmp_path / "a.jfif"


def test_a_renamed_image_is_found_by_the_name_of_its_json(tmp_path) -> None:
    write(tmp_path, "new", [shape("x", SQUARE)], image="IMG_0001.jpg")
    Image.new("RGB", (12, 8)).save(tmp_path / "new.png")
    assert read_dataset(tmp_path).name(0) == "new.png"


def test_an_embedded_image_is_used_if_there_is_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    pixels = np.arange(96, dtype=np.uint8).reshape(8, 12)
    for folder in ("one", "two"):
        write(tmp_path / "data" / folder, "a", [shape("x", SQUARE)], image="gone.jpg", imageData=png(pixels))
    data = read_dataset(tmp_path / "data")
    assert [data.name(i) for i in range(2)] == ["one/a.png", "two/a.png"]
    assert data.path(0).is_relative_to(tmp_path / "cache")
    np.testing.assert_array_equal(np.asarray(Image.open(data.path(1))), pixels)


def test_an_image_path_that_names_the_json_itself_is_no_image(tmp_path) -> None:
    write(tmp_path, "a", [shape("cat", SQUARE)], imagePath="a.json")
    data = read_dataset(tmp_path)
    assert data.path(0).name == "a.png"
    assert not data.report.problems


def test_no_image_outside_the_folder_is_read(tmp_path) -> None:
    Image.new("RGB", (12, 8)).save(tmp_path / "secret.png")
    path = write(tmp_path / "data", "a", [shape("x", SQUARE)], image="../secret.png")
    with pytest.raises(DataError, match=r"a\.json: its image '../secret\.png' is not below .*data.*--images FOLDER"):
        read_dataset(path)


def test_an_image_of_another_size_is_refused(tmp_path) -> None:
    path = write(tmp_path, "a", [shape("x", SQUARE)], imageHeight=80, imageWidth=120)
    with pytest.raises(DataError, match=r"imageHeight x imageWidth is 80 x 120, but a\.png is 8 x 12; it is another"):
        read_dataset(path)


def test_splits_are_folders(tmp_path) -> None:
    write(tmp_path / "train", "a", [shape("x", SQUARE)])
    write(tmp_path / "valid" / "deep", "b", [shape("x", SQUARE)])
    found = find(tmp_path)
    assert {split: source.path.name for split, source in found.items()} == {"train": "train", "val": "valid"}
    assert read_dataset(found["val"]).name(0) == "deep/b.png"


# --- unlabelled, wrong and broken ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unlabelled", "names"), [(None, ["a", "b"]), ("background", ["a", "b", "c", "d"]), ("skip", ["a"])]
)
def test_images_without_annotations(tmp_path, unlabelled, names) -> None:
    write(tmp_path, "a", [shape("x", SQUARE)])
    write(tmp_path, "b", [])
    for stem in "cd":
        Image.new("L", (5, 5)).save(tmp_path / f"{stem}.png")
    data = read_dataset(tmp_path, unlabelled=unlabelled)
    assert [data.name(i) for i in range(len(data))] == [f"{name}.png" for name in names]
    assert data.image_ids.tolist() == list(range(1, len(names) + 1))
    assert data.report.count("image") == 4 - len(names)


def test_a_broken_file_costs_only_its_own_image(tmp_path) -> None:
    write(tmp_path, "a", [shape("x", SQUARE)])
    path = write(tmp_path, "b", [shape("x", SQUARE)])
    path.write_text(path.read_text()[:-30])
    data = read_dataset(tmp_path)
    assert len(data) == 1
    (problem,) = [p for p in data.report.problems if p.reason == "annotation file that cannot be read"]
    assert "b.json: not valid json, perhaps truncated" in problem.detail
    with pytest.raises(DataError, match=r"b\.json: not valid json"):
        read_dataset(tmp_path, strict=True)


def test_two_files_for_one_image_are_reported(tmp_path) -> None:
    write(tmp_path, "a", [shape("x", SQUARE)])
    write(tmp_path, "a copy", [shape("x", RIGHT)], image="a.png")
    data = read_dataset(tmp_path)
    assert len(data) == 1
    assert "image that has an annotation file already" in reasons(data)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (None, "shape without a label"),
        ({"label": 5, "points": SQUARE}, "shape without a label"),
        (shape("x", [[1.0, 2.0], [3.0, 4.0]]), "shape with a wrong number of points"),
        (shape("x", [[1.0, 2.0]], "rectangle"), "shape with a wrong number of points"),
        (shape("x", [[1.0, 2.0], [1e300, 4.0], [3.0, 1.0]]), "shape whose points are not numbers"),
        (shape("x", "none"), "shape whose points are not numbers"),
        (shape("x", [[1.0, 1.0], [2.0, 2.0]], "mask"), "mask that is not a PNG in base64"),
        (shape("x", [[1.0, 1.0], [2.0, 2.0]], "mask", mask="iVBORw0KGgo*"), "mask that is not a PNG in base64"),
        (
            shape("x", [[1.0, 1.0], [2.0, 2.0]], "mask", mask=png(np.ones((50, 50)))),
            "mask that is larger than its image",
        ),
        (shape("x", [[1.0, 1.0], [2.0, 2.0]], "mask", mask=png(np.ones((2, 2)))[:48]), "mask that cannot be decoded"),
        (shape("x", [[1.0, 1.0], [2.0, 2.0]], "mask", mask=png(np.zeros((2, 2)))), "empty mask"),
    ],
)
def test_a_wrong_shape_is_named_and_the_others_are_kept(tmp_path, wrong, reason) -> None:
    data = read_dataset(write(tmp_path, "a", [wrong, shape("x", SQUARE)]))
    assert reasons(data) == [reason]
    np.testing.assert_array_equal(masks_of(data)[0], block(1, 5, 2, 6))


def test_nothing_to_learn_from_is_an_error(tmp_path) -> None:
    write(tmp_path, "a", [])
    with pytest.raises(DataError, match="none of its 1 images has an object with a box or a mask"):
        read_dataset(tmp_path)
    write(tmp_path, "b", [shape("x", [[1.0, 1.0]], "point")])
    with pytest.raises(DataError, match=r"the first of 1 other shapes: shape that is no area \(b\.json, shape 1 'x'"):
        read_dataset(tmp_path)
    write(tmp_path / "apart", "c", [shape("x", SQUARE)], image="../gone.png")
    write(tmp_path / "apart", "d", [shape("x", SQUARE)], image="../gone.png")
    with pytest.raises(
        DataError, match=r"none of its 2 annotation files can be used; the first: .*c\.json.*--images FOLDER"
    ):
        read_dataset(tmp_path / "apart")


def test_other_json_files_are_no_labelme(tmp_path) -> None:
    (tmp_path / "classes.json").write_text('{"shapes": 3}')
    with pytest.raises(DataError, match="no annotations there that can be read"):
        find(tmp_path)
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert find(tmp_path / "coco.json")["all"].format == find(tmp_path)["all"].format == "coco"


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just("x"), st.just("mask")),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
FIELDS = st.sampled_from(["label", "points", "group_id", "shape_type", "flags", "mask", "score"])


@settings(max_examples=80, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(
    shapes=st.one_of(ANYTHING, st.lists(st.dictionaries(FIELDS, ANYTHING, max_size=7), max_size=4)),
    top=st.dictionaries(st.sampled_from(["imagePath", "imageHeight", "imageWidth", "imageData", "shapes"]), ANYTHING),
    cut=st.integers(0, 40),
)
def test_no_file_breaks_the_reader(tmp_path_factory, shapes, top, cut) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    path = write(folder, "a", shapes)
    content = json.loads(path.read_text()) | top
    text = json.dumps(content)
    path.write_text(text if cut > 20 else text[: len(text) - cut])
    try:
        data = read_dataset(folder)
    except DataError:
        return
    for i in range(len(data)):
        masks_of(data, i)


# --- what we write ---------------------------------------------------------------------------------------------------


def test_a_written_file_is_what_labelme_opens(tmp_path) -> None:
    things = [Drawn(0, mask_of(PARTS)), Drawn(1, mask_of(ISLAND[:3, :4])), Drawn(2, None, (0.5, 1.0, 3.0, 2.5), True)]
    record = record_of(tmp_path / "images", "sub/a.b.png", (3, 4), things)
    write_all("labelme", tmp_path / "out", [record], "refer")
    path = tmp_path / "out" / "sub" / "a.b.json"
    content = json.loads(path.read_text())
    assert list(content) == ["version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"]
    assert content["flags"] == {}
    assert content["imageData"] is None
    assert (content["imageHeight"], content["imageWidth"]) == (3, 4)
    assert (path.parent / content["imagePath"]).resolve() == record.path.resolve()
    assert "\\" not in content["imagePath"]
    for one in content["shapes"]:  # the rules of LabelMe's own reader
        assert isinstance(one["label"], str)
        assert isinstance(one["description"], str)
        assert one["group_id"] is None or isinstance(one["group_id"], int)
        assert all(isinstance(value, bool) for value in one["flags"].values())
        assert all(len(point) == 2 and all(type(value) is float for value in point) for point in one["points"])
        assert len(one["points"]) == 2 or one["shape_type"] == "polygon"
        assert (one["mask"] is None) == (one["shape_type"] != "mask")
    kinds = [(one["label"], one["shape_type"], one["group_id"]) for one in content["shapes"]]
    assert kinds[:3] == [("ant", "polygon", 1)] * 3
    assert kinds[-1] == ("Käfer", "rectangle", None)
    assert content["shapes"][-1]["flags"] == {"crowd": True}
    assert content["shapes"][-1]["points"] == [[0.5, 1.0], [3.0, 2.5]]


def test_predictions_keep_their_outlines_and_scores(tmp_path) -> None:
    to = write_all("labelme", tmp_path / "out", [predictions_of(tmp_path)], "link")
    assert (tmp_path / "out" / "p.png").is_symlink()
    shapes = json.loads((tmp_path / "out" / "p.json").read_text())["shapes"]
    assert [one["score"] for one in shapes] == [0.5, 0.75, 0.25]
    assert shapes[0]["points"] == [[0.5, 0.75], [3.25, 0.75], [3.25, 3.5], [0.5, 3.5]]
    assert [one["shape_type"] for one in shapes] == ["polygon", "mask", "rectangle"]
    assert dict(to.lost) == {"outline between pixels, of an object with a hole": 1}
    data = read_dataset(tmp_path / "out")
    assert data.record(0).scores.tolist() == [0.5, 0.75, 0.25]


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path) -> None:
    square = mask_of(np.ones((2, 2)))
    records = [
        record_of(tmp_path / "x", "a.png", (2, 2), [Drawn(0, square)]),
        record_of(tmp_path / "y", "a.jpg", (2, 2), [Drawn(1, square)]),
        record_of(tmp_path / "z", "a.png", (2, 2), [Drawn(2, square)])._replace(name="../../a.png"),
    ]
    write_all("labelme", tmp_path / "out" / "deep", records)
    data = read_dataset(tmp_path / "out")
    assert [name for name, _, _ in objects_of(data)] == ["deep/a-2.png", "deep/a.jpg", "deep/a.png"]
    assert [things[0][0] for _, _, things in objects_of(data)] == ["Käfer", "big bee", "ant"]
    assert sorted(os.listdir(tmp_path)) == ["out", "x", "y", "z"]


def test_splits_and_keypoints(tmp_path) -> None:
    record = record_of(tmp_path, "a.png", (2, 2), [Drawn(0, mask_of(np.ones((2, 2))))])
    to = writer("labelme", tmp_path / "out", CATEGORIES, "copy")
    to.add(record._replace(keypoints=np.array([[[1, 1, 2]]], np.float32)), "train")
    to.add(record, "val")
    to.close()
    assert {split: len(read_dataset(source)) for split, source in find(tmp_path / "out").items()} == {
        "train": 1,
        "val": 1,
    }
    assert dict(to.lost) == {"keypoints of an object": 1}
