"""Label Studio's exports as it writes them, its brush masks, and the tasks that our writer makes."""

import base64
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import find, read_dataset
from maskrcnn.data.formats.brush import decode_brush, encode_brush
from maskrcnn.errors import DataError
from tests.data.formats.round_trip import (
    PARTS,
    Drawn,
    mask_of,
    predictions_of,
    record_of,
    write_all,
)

# An image of 8 x 12 pixels; a square from (3, 2) to (6, 4), in percent.
SQUARE = [[25.0, 25.0], [50.0, 25.0], [50.0, 50.0], [25.0, 50.0]]


def result(kind: str, value: dict[str, Any], label: str = "cat", **more: Any) -> dict[str, Any]:
    """A result as Label Studio 1 exports it."""
    common = {
        "id": f"{kind}{json.dumps(value)}{label}",
        "type": kind,
        "value": value | {kind: [label]},
        "origin": "manual",
    }
    common |= {"to_name": "image", "from_name": "label", "image_rotation": 0}
    return common | {"original_width": 12, "original_height": 8} | more


def polygon(label: str = "cat", **more: Any) -> dict[str, Any]:
    return result("polygonlabels", {"closed": True, "points": SQUARE}, label, **more)


def task(image: str, *results: Any, **more: Any) -> dict[str, Any]:
    """A task with one annotation."""
    done = {"id": 7, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False}
    done |= {"created_at": "2024-01-30T02:40:43.893565Z"}
    return {"id": 3, "annotations": [done], "drafts": [], "predictions": [], "data": {"image": image}} | more


def write(folder: Path, content: Any, *names: str, file: str = "export.json") -> Path:
    """The file, and images of 8 x 12 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("a.png",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 8)).save(folder / name)
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content, indent=2), encoding="utf-8")
    return folder / file


def block(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    bitmap = np.zeros((8, 12), bool)
    bitmap[top:bottom, left:right] = True
    return bitmap


def masks_of(data: Any, i: int = 0) -> list[np.ndarray]:
    record = data.record(i)
    return [draw_bitmap(mask, record.size) for mask in record.segmentations]


def classes(data: Any, i: int = 0) -> list[str]:
    return [data.categories[label].name for label in data.record(i).labels]


def reasons(data: Any) -> list[str]:
    return sorted(problem.reason for problem in data.report.problems)


# --- the brush code --------------------------------------------------------------------------------------------------


def packed(total: int, width: int, lengths: list[int], *packets: str) -> list[int]:
    """A stream by hand: the head, then packets of bits."""
    text = f"{total:032b}{width - 1:05b}" + "".join(f"{n - 1:04b}" for n in lengths) + "".join(packets)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def test_a_stream_by_hand() -> None:
    # 1 x 3 pixels: eight 0 in a run of width 3, then four values one by one, of which the last, an alpha, is 128.
    code = packed(12, 8, [3, 4, 8, 16], "10011100000000", "000011", "11111111" * 3, f"{128:08b}")
    assert decode_brush(code, (1, 3)).tolist() == [[False, False, True]]
    assert decode_brush({str(i): value for i, value in enumerate(code)}, (1, 3)).tolist() == [[False, False, True]]


def test_runs_end_within_pixels_and_alpha_decides() -> None:
    # 2 x 1 pixels: three opaque-white bytes, two bytes of 0 (the first pixel's alpha among them), three of 255.
    code = packed(8, 8, [4, 4, 4, 16], "1000010" + "1" * 8, "1010001" + "0" * 8, f"111{2:016b}" + "1" * 8)
    assert decode_brush(code, (2, 1)).tolist() == [[False], [True]]


def test_other_widths_of_values() -> None:
    code = packed(8, 3, [2, 2, 2, 2], "00011", "000000000100", "10111", "000")
    assert decode_brush(code, (1, 2)).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "not a list of bytes"),
        ("text", "not a list of bytes"),
        ([1, 2, 300], "not a list of bytes"),
        ([1, None], "not a list of bytes"),
        ([0] * 6, "not a list of bytes"),
        (packed(2**32 - 1, 8, [3, 4, 8, 16], "1" * 80), "brush mask of 1.07374e\\+09 pixels in an image of 1 x 3"),
        (packed(12, 8, [3, 4, 8, 16]), "ends too early"),
        (packed(12, 8, [3, 4, 8, 16], "011" + "1" * 16), "ends too early"),
    ],
)
def test_a_broken_stream_is_named(code, message) -> None:
    with pytest.raises(DataError, match=message):
        decode_brush(code, (1, 3))


@settings(max_examples=100)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_what_is_encoded_is_decoded(bitmap) -> None:
    np.testing.assert_array_equal(decode_brush(encode_brush(bitmap), bitmap.shape), bitmap)


def test_long_runs(rng) -> None:
    bitmap = np.zeros((300, 300), bool)
    bitmap[100:200, :] = True
    code = encode_brush(bitmap)
    assert len(code) < 60
    np.testing.assert_array_equal(decode_brush(code, (300, 300)), bitmap)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 255), max_size=60), st.booleans())
def test_no_stream_breaks_the_decoder(code, headed) -> None:
    try:
        decode_brush(packed(48, 8, [3, 4, 8, 16]) + code if headed else code, (3, 4))
    except DataError:
        pass


# --- what the tool writes --------------------------------------------------------------------------------------------


def test_every_region_is_what_label_studio_draws(tmp_path) -> None:
    brush = block(0, 8, 0, 12) & ~block(3, 5, 4, 6)
    results = [
        polygon(),
        result("rectanglelabels", {"x": 25.0, "y": 25.0, "width": 50.0, "height": 25.0, "rotation": 0}, "dog"),
        result("rectanglelabels", {"x": 50.0, "y": 25.0, "width": 25.0, "height": 25.0, "rotation": 90}, "dog"),
        result("ellipselabels", {"x": 50.0, "y": 50.0, "radiusX": 25.0, "radiusY": 25.0, "rotation": 0}),
        result("brushlabels", {"format": "rle", "rle": encode_brush(brush)}),
        result("keypointlabels", {"x": 22.6, "y": 31.7, "width": 0.18}),
        result("polygonlabels", {"closed": False, "points": SQUARE}),
        {"id": "c", "type": "choices", "value": {"choices": ["blurred"]}, "from_name": "c", "to_name": "image"},
        {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"},
    ]
    data = read_dataset(write(tmp_path, [task("/data/upload/1/a.png", *results)]))
    record, masks = data.record(0, exact=True), masks_of(data)
    assert classes(data) == ["cat", "dog", "dog", "cat", "cat"]
    np.testing.assert_array_equal(masks[0], block(2, 4, 3, 6))
    assert record.boxes[1].tolist() == [3, 2, 9, 4]
    assert record.boxes[2].tolist() == [4, 2, 6, 5]  # 3 wide and 2 high, turned clockwise around its corner (6, 2)
    assert record.segmentations[1] is None
    np.testing.assert_array_equal(masks[2], block(2, 5, 4, 6))
    np.testing.assert_allclose(record.boxes[3], [3, 2, 9, 6], atol=0.06)
    np.testing.assert_array_equal(masks[4], brush)
    assert reasons(data) == ["keypoint, which only COCO files bring", "polygon that is not closed"]
    assert data.name(0) == "a.png"


def test_labels_that_are_a_tag_of_their_own(tmp_path) -> None:
    shape = {"closed": True, "points": SQUARE}
    common = {"id": "r1", "original_width": 12, "original_height": 8, "to_name": "image"}
    results = [
        common | {"type": "polygon", "value": shape},
        common | {"type": "labels", "value": shape | {"labels": ["cat"]}},
        common | {"type": "choices", "value": {"choices": ["old"]}},
    ]
    data = read_dataset(write(tmp_path, [task("a.png", *results)]))
    assert classes(data) == ["cat"]
    np.testing.assert_array_equal(masks_of(data)[0], block(2, 4, 3, 6))


def test_json_min(tmp_path) -> None:
    region = {"closed": True, "points": SQUARE, "polygonlabels": ["cat"], "original_width": 12, "original_height": 8}
    box = {"x": 25, "y": 25, "width": 25, "height": 25, "rotation": 0, "rectanglelabels": ["dog"]}
    entry = {"image": "/data/upload/1/1a2b3c4d-a.png", "id": 1, "label": [region], "box": [box], "annotator": 1}
    entry |= {"annotation_id": 5, "created_at": "2024-01-02", "lead_time": 3.5}
    older = entry | {"annotation_id": 4, "created_at": "2024-01-01", "label": [], "box": []}
    data = read_dataset(write(tmp_path, [entry, older]))
    assert classes(data) == ["cat", "dog"]
    assert data.record(0).boxes[1].tolist() == [3, 2, 6, 4]
    assert reasons(data) == ["further annotations of a task, left out"]


@pytest.mark.parametrize(
    "stated",
    [
        "a b.png",
        "/data/upload/4/0f9d3c2a-a%20b.png",
        "/data/upload/4/0f9d3c2a-a b.png",
        "/data/local-files/?d=photos/a%20b.png",
        "/data/local-files/?d=photos\\a b.png",
        "s3://bucket/photos/a b.png",
        "https://bucket.s3.amazonaws.com/photos/a%20b.png?X-Amz-Signature=0123",
        "/tasks/7/resolve/?fileuri=" + base64.b64encode(b"gs://bucket/photos/a b.png").decode(),
    ],
)
def test_images_of_every_storage_are_found(tmp_path, stated) -> None:
    path = write(tmp_path, [task(stated, polygon())], "photos/a b.png", "photos/c.png")
    data = read_dataset(path)
    assert data.name(0) == "photos/a b.png"
    assert read_dataset(path, tmp_path / "photos").name(0) == "a b.png"


def test_the_field_of_the_image_may_have_any_name(tmp_path) -> None:
    data = read_dataset(
        write(tmp_path, [task("", polygon(), data={"title": "A cat", "photo": "/data/upload/1/a.png"})])
    )
    assert data.name(0) == "a.png"


def test_no_image_outside_the_folder_is_read(tmp_path) -> None:
    Image.new("L", (12, 8)).save(tmp_path / "secret.png")
    path = write(tmp_path / "data", [task("/data/local-files/?d=../secret.png", polygon())], "other.png")
    with pytest.raises(DataError, match="file name that leaves the image folder"):
        read_dataset(path)


def test_an_image_in_the_task_itself(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data", "", "a.png")
    content = base64.b64encode((tmp_path / "data" / "a.png").read_bytes()).decode()
    data = read_dataset(write(tmp_path / "data", [task(f"data:image/png;base64,{content}", polygon())]))
    assert data.path(0).is_relative_to(tmp_path / "cache")
    np.testing.assert_array_equal(masks_of(data)[0], block(2, 4, 3, 6))


# --- which annotation counts -----------------------------------------------------------------------------------------


def test_the_ground_truth_counts_else_the_newest_annotation(tmp_path) -> None:
    def several(*done: dict[str, Any]) -> list[dict[str, Any]]:
        return [task("a.png", annotations=list(done))]

    first = {"result": [polygon("cat")], "created_at": "2024-01-01"}
    second = {"result": [polygon("dog")], "created_at": "2024-01-02"}
    assert classes(read_dataset(write(tmp_path, several(second, first)))) == ["dog"]
    assert classes(read_dataset(write(tmp_path, several(second, first | {"ground_truth": True})))) == ["cat"]
    cancelled = read_dataset(write(tmp_path, several(first, second | {"was_cancelled": True})))
    assert classes(cancelled) == ["cat"]
    assert cancelled.report.problems == []


@pytest.mark.parametrize(
    ("unlabelled", "names"), [(None, "ab"), ("background", "abcd"), ("skip", "a")], ids=["usual", "background", "skip"]
)
def test_tasks_without_a_finished_annotation(tmp_path, unlabelled, names) -> None:
    tasks = [
        task("a.png", polygon()),
        task("b.png"),
        task("c.png", annotations=[{"result": [polygon()], "was_cancelled": True}]),
        task("d.png", annotations=[], predictions=[{"result": [polygon()]}]),
    ]
    data = read_dataset(write(tmp_path, tasks, "a.png", "b.png", "c.png", "d.png"), unlabelled=unlabelled)
    assert [data.name(i) for i in range(len(data))] == [f"{name}.png" for name in names]
    assert [len(data.record(i).labels) for i in range(len(data))] == [1, 0, 0, 0][: len(names)]
    if unlabelled is None:
        assert reasons(data) == ["image with predictions only, left out", "task that was skipped in Label Studio"]


def test_predictions_are_no_annotations(tmp_path) -> None:
    path = write(tmp_path, [task("a.png", annotations=[], predictions=[{"result": [polygon()]}])])
    with pytest.raises(DataError, match="accept and submit them in Label Studio, and export again"):
        read_dataset(path)


# --- sizes, wrong regions, broken files ------------------------------------------------------------------------------


def test_an_image_that_was_resized_since(tmp_path) -> None:
    larger: Any = {"original_width": 1200, "original_height": 800}
    brush = result("brushlabels", {"format": "rle", "rle": [0] * 20}, **larger)
    data = read_dataset(write(tmp_path, [task("a.png", polygon(**larger), brush)]))
    np.testing.assert_array_equal(masks_of(data)[0], block(2, 4, 3, 6))
    assert "image that was resized after it was labelled, its regions scaled" in reasons(data)
    assert "brush mask of 0 pixels in an image of 8 x 12" in reasons(data)
    tasks = [task("a.png", polygon(original_width=9, original_height=900)), task("b.png", polygon())]
    data = read_dataset(write(tmp_path, tasks, "a.png", "b.png"))
    assert [data.name(i) for i in range(len(data))] == ["b.png"]
    assert data.report.lost_with_image == 1
    assert "image of other proportions than the one that was labelled" in reasons(data)


def test_an_image_that_was_turned_in_the_tool(tmp_path) -> None:
    data = read_dataset(write(tmp_path, [task("a.png", polygon(image_rotation=90, id="1"), polygon(id="2"))]))
    assert reasons(data) == ["region of an image that was turned in Label Studio"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (result("polygonlabels", {"points": "none"}), "polygon whose points are not numbers"),
        (result("polygonlabels", {"points": [[1, 2]]}), "polygon with fewer than 3 points"),
        (result("polygonlabels", {"points": SQUARE}) | {"value": {"points": SQUARE}}, "region without a label"),
        (
            result("rectanglelabels", {"x": 1, "y": "?", "width": 2, "height": 3}),
            "region with coordinates that are not numbers",
        ),
        (
            result("ellipselabels", {"x": 1, "y": 2, "radiusX": 1e999, "radiusY": 3}),
            "region with coordinates that are not numbers",
        ),
        (result("brushlabels", {"rle": [1, 2, 3]}), "brush mask that is not a list of bytes"),
        (result("vectorlabels", {"vertices": []}), "region of a kind that is not read"),
    ],
)
def test_a_wrong_region_is_named_and_the_others_are_kept(tmp_path, wrong, reason) -> None:
    data = read_dataset(write(tmp_path, [task("a.png", wrong, polygon())]))
    assert reasons(data) == [reason]
    np.testing.assert_array_equal(masks_of(data)[0], block(2, 4, 3, 6))


def test_several_labels_and_notes(tmp_path) -> None:
    both = polygon(meta={"text": ["crowd"]})
    both["value"]["polygonlabels"] = ["dog", "cat"]
    data = read_dataset(write(tmp_path, [task("a.png", both)]))
    assert classes(data) == ["dog"]
    assert data.record(0).ignore.tolist() == [True]
    assert reasons(data) == ["region with several labels, the first is used"]


def test_a_folder_with_one_export_and_splits(tmp_path) -> None:
    write(tmp_path / "train", [task("a.png", polygon())])
    write(tmp_path / "val", [task("a.png", polygon())])
    assert {split: source.format for split, source in find(tmp_path).items()} == {
        "train": "labelstudio",
        "val": "labelstudio",
    }
    assert read_dataset(find(tmp_path)["train"]).name(0) == "a.png"
    write(tmp_path / "train", [task("a.png", polygon())], file="older.json")
    with pytest.raises(DataError, match=r"export\.json, older\.json are all .*name one instead of the folder"):
        find(tmp_path)


def test_a_file_for_each_task_or_annotation(tmp_path) -> None:
    write(tmp_path / "ann", task("/data/upload/1/a.png", polygon("cat")), "../img/a.png", file="1.json")
    stored = {"id": 7, "result": [polygon("dog")], "was_cancelled": False, "completed_by": 1, "created_at": "2024"}
    stored |= {"task": {"id": 9, "data": {"image": "s3://bucket/b.png"}}}
    write(tmp_path / "ann", stored, "../img/b.png", file="2.json")
    write(tmp_path / "ann", stored | {"created_at": "2023"}, "../img/b.png", file="3.json")
    write(tmp_path / "ann", json.dumps(stored)[:-5], "../img/b.png", file="4.json")
    data = read_dataset(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["img/a.png", "img/b.png"]
    assert classes(data, 0) + classes(data, 1) == ["cat", "dog"]
    assert reasons(data) == ["annotation file that cannot be read", "further annotations of a task, left out"]
    assert read_dataset(write(tmp_path / "one", task("a.png", polygon()))).name(0) == "a.png"


def test_keypoints_name_no_class_and_a_missing_image_is_named(tmp_path) -> None:
    point = result("keypointlabels", {"x": 22.6, "y": 31.7, "width": 0.18}, "nose")
    data = read_dataset(write(tmp_path, [task("a.png", point, polygon()), task("/data/upload/4/b.png", polygon())]))
    assert [category.name for category in data.categories] == ["cat"]
    assert "missing image file" in reasons(data)
    assert "missing image file" in reasons(read_dataset(write(tmp_path / "both", [
        task("a.png", polygon()), task("/data/upload/4/b.png", point, polygon()),
    ])))  # fmt: skip
    with pytest.raises(
        DataError, match=r"none of its 1 images can be used; .*name the folder of the images with --images FOLDER"
    ):
        read_dataset(write(tmp_path / "apart", [task("/data/upload/4/c.png", polygon())], "d.png"))


def test_a_truncated_file_is_named(tmp_path) -> None:
    path = write(tmp_path, json.dumps([task("a.png", polygon())])[:-4])
    with pytest.raises(DataError, match=r"export\.json: not valid json, perhaps truncated"):
        read_dataset(path)


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just("cat")),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
VALUES = st.dictionaries(
    st.sampled_from(
        ["points", "closed", "rle", "x", "y", "width", "height", "radiusX", "radiusY", "rotation", "labels"]
    ),
    ANYTHING,
)
RESULTS = st.lists(st.one_of(ANYTHING, st.builds(result, st.just("polygonlabels"), VALUES, ANYTHING)), max_size=3)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(results=RESULTS, part=st.sampled_from(["annotations", "predictions", "data", "id", "meta"]), value=ANYTHING)
def test_no_file_breaks_the_reader(tmp_path_factory, results, part, value) -> None:
    content = [task("a.png", *results, **{part: value}), task("b.png", polygon()), value]
    path = write(tmp_path_factory.getbasetemp() / "fuzz", content, "a.png", "b.png")
    try:
        data = read_dataset(path)
    except DataError:
        return
    for i in range(len(data)):
        masks_of(data, i)


# --- what we write ---------------------------------------------------------------------------------------------------


def test_written_tasks_are_what_label_studio_imports(tmp_path) -> None:
    things = [Drawn(0, mask_of(PARTS[:, :2])), Drawn(1, mask_of(PARTS)), Drawn(2, None, (0.5, 1, 3, 2.5), True)]
    write_all("labelstudio", tmp_path / "out", [record_of(tmp_path, "sub/a b.png", (3, 2), things[:1])])
    (one,) = json.loads((tmp_path / "out" / "label_studio.json").read_text())
    assert one["data"] == {"image": "/data/local-files/?d=sub/a%20b.png"}
    write_all("labelstudio", tmp_path / "out", [record_of(tmp_path, "a.png", (3, 4), things[1:])], "refer")
    (one,) = json.loads((tmp_path / "out" / "label_studio.json").read_text())
    assert one["data"] == {"image": "/data/local-files/?d=" + str(tmp_path / "a.png")[1:]}
    config = ElementTree.parse(tmp_path / "out" / "label_config.xml").getroot()
    controls = {control.get("name"): [label.get("value") for label in control] for control in config if len(control)}
    (done,) = one["annotations"]
    for region in done["result"]:
        kind = region["type"]
        assert set(region["value"][kind]) <= set(controls[region["from_name"]])
        assert (region["to_name"], region["original_width"], region["original_height"]) == ("image", 4, 3)
    assert [region["type"] for region in done["result"]] == ["brushlabels", "rectanglelabels"]
    box = [done["result"][1]["value"][key] for key in ("x", "y", "width", "height", "rotation")]
    np.testing.assert_allclose(box, [12.5, 100 / 3, 62.5, 50, 0])


def test_predictions_are_written_as_predictions(tmp_path) -> None:
    to = write_all("labelstudio", tmp_path / "out", [predictions_of(tmp_path)])
    (one,) = json.loads((tmp_path / "out" / "label_studio.json").read_text())
    assert "annotations" not in one
    (prediction,) = one["predictions"]
    assert prediction["score"] == 0.5
    assert [region["score"] for region in prediction["result"]] == [0.5, 0.75, 0.25]
    assert [region["type"] for region in prediction["result"]] == ["polygonlabels", "brushlabels", "rectanglelabels"]
    assert prediction["result"][0]["value"]["points"][0] == [6.25, 9.375]
    assert dict(to.lost) == {"outline between pixels, of an object in parts or with a hole": 1}
    # Accepted in the tool, they come back.
    accepted = one | {"annotations": [{"result": prediction["result"]}]}
    data = read_dataset(write(tmp_path / "out", [accepted], "other.png", file="label_studio.json"))
    assert classes(data) == ["ant", "big bee", "Käfer"]
    assert masks_of(data)[1].sum() == 24
