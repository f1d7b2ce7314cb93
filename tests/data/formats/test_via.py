"""VGG Image Annotator's files: VIA 1, 2 and 3 as they write them, as users fill them, and as our writer makes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import find, read_dataset
from maskrcnn.errors import DataError
from tests.data.formats.round_trip import (
    PARTS,
    Drawn,
    mask_of,
    predictions_of,
    record_of,
    write_all,
)

SQUARE = {"name": "polygon", "all_points_x": [2, 6, 6, 2], "all_points_y": [1, 1, 5, 5]}
INNER = {"name": "polygon", "all_points_x": [3, 5, 5, 3], "all_points_y": [2, 2, 4, 4]}
RIGHT = {"name": "polygon", "all_points_x": [8, 10, 10, 8], "all_points_y": [1, 1, 5, 5]}
RECT = {"name": "rect", "x": 1, "y": 2, "width": 4, "height": 3}


def region(shape: Any, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name: str, regions: Any, **more: Any) -> dict[str, Any]:
    return {"filename": name, "size": 1234, "regions": regions, "file_attributes": {}} | more


def annotations(*entries: Any) -> dict[str, Any]:
    return {f"{one['filename']}{one['size']}": one for one in entries}


def project(*entries: Any, **attributes: Any) -> dict[str, Any]:
    """A project of VIA 2 with the attributes of regions that are defined in it."""
    return {
        "_via_settings": {"core": {"default_filepath": "./"}, "project": {"name": "p"}},
        "_via_img_metadata": annotations(*entries),
        "_via_attributes": {"region": attributes, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [],
    }


def write(folder: Path, content: Any, *names: str, file: str = "via.json") -> Path:
    """The file, and images of 8 x 12 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("a.png",):
        Image.new("L", (12, 8)).save(folder / name)
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
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


# --- what the tool writes --------------------------------------------------------------------------------------------


def test_every_shape_is_what_via_draws(tmp_path) -> None:
    shapes = [
        SQUARE,
        RECT,
        {"name": "circle", "cx": 6, "cy": 4, "r": 3},
        {"name": "ellipse", "cx": 6, "cy": 4, "rx": 4, "ry": 2, "theta": np.pi / 2},
        {"name": "ellipse", "cx": 6, "cy": 4, "rx": 4, "ry": 2},
        {"name": "polyline", "all_points_x": [2, 6, 6, 2, 2], "all_points_y": [1, 1, 5, 5, 2]},
        {"name": "polyline", "all_points_x": [2, 6, 11], "all_points_y": [1, 1, 7]},
        {"name": "point", "cx": 3, "cy": 3},
    ]
    data = read_dataset(write(tmp_path, annotations(entry("a.png", [region(shape, kind="x") for shape in shapes]))))
    record, masks = data.record(0, exact=True), masks_of(data)
    np.testing.assert_array_equal(masks[0], block(1, 5, 2, 6))
    assert record.segmentations[1] is None  # a rectangle is a box
    assert record.boxes[1].tolist() == [1, 2, 5, 5]
    np.testing.assert_allclose(record.boxes[2], [3, 1, 9, 7], atol=0.06)
    np.testing.assert_allclose(record.boxes[3], [4, 0, 8, 8], atol=0.06)
    np.testing.assert_allclose(record.boxes[4], [2, 2, 10, 6], atol=0.06)
    np.testing.assert_array_equal(masks[5], block(1, 5, 2, 6))
    assert reasons(data) == ["polyline that is not closed, and so no area", "region that is no area"]
    assert record.size == (8, 12)


@pytest.mark.parametrize("numbered", [False, True], ids=["VIA 2", "VIA 1"])
def test_regions_as_a_list_and_as_a_dictionary(tmp_path, numbered) -> None:
    regions = [region(SQUARE, name="cat"), region(RIGHT, name="dog")]
    more = {"fileref": "", "base64_img_data": ""} if numbered else {}
    listed = {str(i): one for i, one in enumerate(regions)} if numbered else regions
    data = read_dataset(write(tmp_path, annotations(entry("a.png", listed, **more))))
    assert classes(data) == ["cat", "dog"]


def test_the_csv(tmp_path) -> None:
    def quoted(value: Any) -> str:
        return '"' + json.dumps(value).replace('"', '""') + '"'

    many = {"name": "polygon", "all_points_x": [2, 6, 6] + [2] * 50_000, "all_points_y": [1, 1, 5] + [5] * 50_000}
    rows = [
        "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
        f'a.png,12,"{{}}",2,0,{quoted(many)},{quoted({"type": "cät"})}',
        f'a.png,12,"{{}}",2,1,{quoted(RECT)},{quoted({"type": "dog, big"})}',
        'b.png,12,"{}",0,0,"{}","{}"',
        'c.png,12,"{}",1,0,"{broken","{}"',
    ]
    data = read_dataset(write(tmp_path, "\n".join(rows), "a.png", "b.png", file="export.csv"))
    assert [data.name(i) for i in range(len(data))] == ["a.png", "b.png"]
    assert classes(data) == ["cät", "dog, big"]
    np.testing.assert_array_equal(masks_of(data)[0], block(1, 5, 2, 6))
    assert len(data.record(1).labels) == 0
    assert reasons(data) == ["row that cannot be read"]


def test_a_project_of_via_3(tmp_path) -> None:
    file = {"type": 2, "loc": 1, "src": ""}
    content = {
        "project": {
            "pid": "__VIA_PROJECT_ID__",
            "creator": "VGG Image Annotator (http://...)",
            "vid_list": ["1", "2", "3"],
        },
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
        "attribute": {
            "1": {"aname": "animal", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "cat", "1": "dog"}},
            "2": {"aname": "caption", "anchor_id": "FILE1_Z0_XY0", "type": 1, "options": {}},
        },
        "file": {
            "1": file | {"fid": "1", "fname": "a.png"},
            "2": file | {"fid": "2", "fname": "b.png"},
            "3": file | {"fid": "3", "fname": "film.mp4", "type": 4},
        },
        "metadata": {
            "1_x": {"vid": "1", "flg": 0, "z": [], "xy": [7, 2, 1, 6, 1, 6, 5, 2, 5], "av": {"1": "0"}},
            "1_y": {"vid": "1", "flg": 0, "z": [], "xy": [2, 1, 2, 4, 3], "av": {"1": "1"}},
            "1_e": {"vid": "1", "flg": 0, "z": [], "xy": [8, 3, 1, 5, 4, 2, 5, 1, 2], "av": {"1": "1"}},
            "1_z": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {"2": "a house"}},
            "1_p": {"vid": "1", "flg": 0, "z": [], "xy": [1, 5, 5], "av": {"1": "1"}},
        },
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}, "3": {"fid_list": ["3"]}},
    }
    data = read_dataset(write(tmp_path, content, "a.png", "b.png"))
    assert classes(data) == ["cat", "dog", "dog"]
    np.testing.assert_array_equal(masks_of(data)[0], block(1, 5, 2, 6))
    assert data.record(0).boxes[1:].tolist() == [[1, 2, 5, 5], [1, 1, 5, 5]]
    assert len(data.record(1).labels) == 0
    assert reasons(data) == ["region that is no area", "view that is not of one image"]


# --- which attribute is the class ------------------------------------------------------------------------------------


def test_the_class_is_the_attribute_that_all_regions_have(tmp_path) -> None:
    regions = [region(SQUARE, plant="fern", note="?"), region(RIGHT, plant="moss", note="")]
    assert classes(read_dataset(write(tmp_path, annotations(entry("a.png", regions))))) == ["fern", "moss"]


def test_of_several_the_one_with_a_usual_name_or_a_list_of_choices(tmp_path) -> None:
    regions = [region(SQUARE, id="1", Class_Name="fern"), region(RIGHT, id="2", Class_Name="moss")]
    assert classes(read_dataset(write(tmp_path, annotations(entry("a.png", regions))))) == ["fern", "moss"]
    regions = [region(SQUARE, id="1", plant="fern"), region(RIGHT, id="2", plant="moss")]
    choices = {"type": "dropdown", "description": "", "options": {"fern": "", "moss": "A moss"}, "default_options": {}}
    content = project(entry("a.png", regions), plant=choices)
    assert classes(read_dataset(write(tmp_path, content))) == ["fern", "moss"]


def test_it_is_an_error_if_several_would_do(tmp_path) -> None:
    path = write(tmp_path, annotations(entry("a.png", [region(SQUARE, plant="fern", state="dry")])))
    with pytest.raises(
        DataError, match=r"there are plant \(of 1 regions\), state \(of 1 regions\); rename the right one"
    ):
        read_dataset(path)


def test_attributes_that_say_the_same_everywhere_are_the_class(tmp_path) -> None:
    regions = [region(SQUARE, inseto="fly", insect="fly"), region(RIGHT, inseto="bee", insect="bee")]
    data = read_dataset(write(tmp_path, annotations(entry("a.png", regions))))
    assert classes(data) == ["fly", "bee"]
    regions[1]["region_attributes"]["insect"] = "wasp"
    with pytest.raises(DataError, match="not clear which attribute of its 2 regions is the class"):
        read_dataset(write(tmp_path, annotations(entry("a.png", regions))))


def test_choices_that_are_numbered_have_their_descriptions_as_names(tmp_path) -> None:
    choices = {"type": "dropdown", "options": {"7": "cat", "9": "dog"}}
    content = project(entry("a.png", [region(SQUARE, class_id="9"), region(RIGHT, class_id="7")]), class_id=choices)
    assert classes(read_dataset(write(tmp_path, content))) == ["dog", "cat"]


def test_a_ticked_box_is_a_class(tmp_path) -> None:
    regions = [region(SQUARE, name={"cat": True, "dog": False}), region(RIGHT, name={"cat": True, "dog": True})]
    data = read_dataset(write(tmp_path, annotations(entry("a.png", regions))))
    assert classes(data) == ["cat"]
    assert reasons(data) == ["region without a class"]


def test_regions_without_attributes_are_one_class(tmp_path) -> None:
    data = read_dataset(write(tmp_path, annotations(entry("a.png", [region(SQUARE), region(RIGHT)]))))
    assert classes(data) == ["object", "object"]
    assert reasons(data) == ["no region has an attribute: all are of one class, 'object'"]


def test_an_attribute_without_a_value_is_a_class_by_its_name(tmp_path) -> None:
    data = read_dataset(write(tmp_path, annotations(entry("a.png", [region(SQUARE, body=""), region(RIGHT, bike="")]))))
    assert classes(data) == ["body", "bike"]
    assert len(data.report.problems) == 1


def test_the_class_may_be_the_images(tmp_path) -> None:
    content = annotations(
        entry("a.png", [region(SQUARE)], file_attributes={"caption": "", "Label": "cat"}),
        entry("b.png", [region(SQUARE)], file_attributes={"caption": "", "Label": "dog"}),
    )
    data = read_dataset(write(tmp_path, content, "a.png", "b.png"))
    assert classes(data, 0) + classes(data, 1) == ["cat", "dog"]


# --- images, several entries, broken files ---------------------------------------------------------------------------


def test_balloons_layout(tmp_path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, annotations(entry("a.png", [region(SQUARE)])), file="via_region_data.json")
    assert {split: len(read_dataset(source)) for split, source in find(tmp_path).items()} == {"train": 1, "val": 1}


def test_the_project_is_chosen_among_its_exports(tmp_path) -> None:
    one = entry("a.png", [region(SQUARE, name="cat")])
    write(tmp_path, annotations(one), file="a_export.json")
    write(tmp_path, project(one), file="project.json")
    assert find(tmp_path)["all"].path.name == "project.json"
    write(tmp_path, project(one), file="project2.json")
    with pytest.raises(DataError, match=r"project\.json, project2\.json are all .*; name one instead of the folder"):
        find(tmp_path)


@pytest.mark.parametrize("stated", ["photos\\a.png", "https://example.org/x/a.png", "file:///C:/photos/A.png"])
def test_names_of_another_system(tmp_path, stated) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (12, 8)).save(tmp_path / "photos" / "a.png")
    path = write(tmp_path / "annotations", annotations(entry(stated, [region(SQUARE)])), "other.png")
    assert read_dataset(path).path(0) == tmp_path / "photos" / "a.png"


def test_a_missing_image_is_reported_and_none_outside_is_read(tmp_path) -> None:
    Image.new("L", (12, 8)).save(tmp_path / "secret.png")
    content = annotations(entry("../secret.png", [region(SQUARE)]), entry("a.png", [region(SQUARE)]))
    data = read_dataset(write(tmp_path / "data", content))
    assert len(data) == 1
    assert "file name that leaves the image folder" in reasons(data)
    assert data.report.lost_with_image == 1


def test_the_class_of_a_point_is_none_even_if_the_image_is_missing(tmp_path) -> None:
    tip = region({"name": "point", "cx": 3, "cy": 3}, kind="tip")
    entries = entry("a.png", [region(SQUARE, kind="cat")]), entry("b.png", [tip, region(SQUARE, kind="cat")])
    data = read_dataset(write(tmp_path, annotations(*entries)))
    assert [category.name for category in data.categories] == ["cat"]
    assert {"missing image file", "region that is no area"} <= set(reasons(data))


def test_an_image_that_is_listed_twice_is_joined(tmp_path) -> None:
    content = {
        "a": entry("a.png", [region(SQUARE, name="x")]),
        "b": entry("a.png", [region(SQUARE, name="x"), region(RIGHT, name="x")]),
    }
    data = read_dataset(write(tmp_path, content))
    assert classes(data) == ["x", "x"]
    assert reasons(data) == ["image that is listed several times, its regions joined"]


def test_groups_crowds_and_scores(tmp_path) -> None:
    regions = [
        region(SQUARE, name="x", group_id="2", crowd="1", score="0.25"),
        region(INNER, name="x", group_id="2", crowd="1", score="0.25"),
        region(RIGHT, name="x", group_id=""),
    ]
    data = read_dataset(write(tmp_path, annotations(entry("a.png", regions))))
    np.testing.assert_array_equal(masks_of(data)[0], block(1, 5, 2, 6) & ~block(2, 4, 3, 5))
    assert data.record(0).ignore.tolist() == [True, False]
    np.testing.assert_array_equal(data.record(0).scores, [0.25, np.nan])


@pytest.mark.parametrize(
    ("unlabelled", "names"), [(None, ["a", "b"]), ("background", ["a", "b", "c"]), ("skip", ["a"])]
)
def test_images_without_annotations(tmp_path, unlabelled, names) -> None:
    content = annotations(entry("a.png", [region(SQUARE, name="x")]), entry("b.png", []))
    data = read_dataset(write(tmp_path, content, "a.png", "b.png", "c.png"), unlabelled=unlabelled)
    assert [data.name(i) for i in range(len(data))] == [f"{name}.png" for name in names]
    assert data.report.count("image") == 3 - len(names)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({}, "region that is no area"),
        ({"name": "polygon"}, "region whose all_points_x and all_points_y are not lists of one length"),
        (SQUARE | {"all_points_x": [1, 2]}, "region whose all_points_x and all_points_y are not lists of one length"),
        (SQUARE | {"all_points_x": [1, 2, None, 4]}, "region with coordinates that are not numbers"),
        (SQUARE | {"all_points_x": [1, 2, 1e400, 4]}, "region with coordinates that are not numbers"),
        ({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, "polygon with fewer than 3 points"),
        ({"name": "circle", "cx": 1, "cy": 1}, "region with coordinates that are not numbers"),
        ({"name": "rect", "x": 50, "y": 50, "width": 5, "height": 5}, "box outside its image"),
    ],
)
def test_a_wrong_region_is_named_and_the_others_are_kept(tmp_path, shape, reason) -> None:
    data = read_dataset(
        write(tmp_path, annotations(entry("a.png", [region(shape, name="x"), region(SQUARE, name="x")])))
    )
    assert reasons(data) == [reason]
    np.testing.assert_array_equal(masks_of(data)[0], block(1, 5, 2, 6))


def test_the_csv_of_via_3_is_named(tmp_path) -> None:
    path = write(tmp_path, "# Exported using VGG Image Annotator (http://...)\n# Notes:\n", file="e.csv")
    with pytest.raises(DataError, match=r"e\.csv: a csv of VIA 3, which is not read; save the project"):
        read_dataset(path)


def test_a_truncated_file_is_named(tmp_path) -> None:
    path = write(tmp_path, json.dumps(annotations(entry("a.png", [region(SQUARE)])))[:-9])
    with pytest.raises(DataError, match=r"via\.json: not valid json, perhaps truncated"):
        read_dataset(path)


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just("polygon")),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
SHAPES = st.dictionaries(st.sampled_from(["name", "all_points_x", "all_points_y", "cx", "cy", "r", "x"]), ANYTHING)
REGIONS = st.lists(st.one_of(ANYTHING, st.builds(region, st.one_of(SHAPES, ANYTHING), name=ANYTHING)), max_size=3)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(
    regions=st.one_of(ANYTHING, REGIONS),
    attributes=ANYTHING,
    version=st.integers(2, 3),
    part=st.sampled_from(["file", "metadata", "view", "attribute"]),
    value=ANYTHING,
)
def test_no_file_breaks_the_reader(tmp_path_factory, regions, attributes, version, part, value) -> None:
    content: Any = project(entry("a.png", regions), entry("b.png", [region(SQUARE, name="x")]))
    content["_via_attributes"] = attributes
    if version == 3:
        xy = regions if isinstance(regions, list) else [7, *SQUARE["all_points_x"]]
        content = {
            "project": {"pid": "1", "creator": "VGG"},
            "attribute": {"1": {"aname": "x", "options": {}}},
            "file": {"1": {"fname": "a.png", "type": 2}},
            "metadata": {
                "m": {"vid": "1", "xy": xy, "av": {"1": value}},
                "n": {"vid": "1", "xy": [7, 1, 1, 5, 1, 5, 5]},
            },
            "view": {"1": {"fid_list": ["1"]}},
        }
        content[part] = {"1": value} if isinstance(value, list) else value
    path = write(tmp_path_factory.getbasetemp() / "fuzz", content, "a.png", "b.png")
    try:
        data = read_dataset(path)
    except DataError:
        return
    for i in range(len(data)):
        masks_of(data, i)


# --- what we write ---------------------------------------------------------------------------------------------------


def test_a_written_project_is_what_via_opens(tmp_path) -> None:
    record = record_of(
        tmp_path / "images", "sub/a.png", (3, 4), [Drawn(0, mask_of(PARTS)), Drawn(2, None, (0.5, 1, 3, 2.5))]
    )
    write_all("via", tmp_path / "out", [record], "refer")
    content = json.loads((tmp_path / "out" / "via_project.json").read_text())
    assert {"_via_settings", "_via_img_metadata", "_via_attributes", "_via_image_id_list"} <= content.keys()
    size = record.path.stat().st_size
    ((key, one),) = content["_via_img_metadata"].items()
    assert content["_via_image_id_list"] == [key]
    assert key == f"sub/a.png{size}"  # VIA's id of an image: its name and its size in bytes
    assert {"filename", "size", "regions", "file_attributes"} == one.keys()
    folder = content["_via_settings"]["core"]["default_filepath"]
    assert Path(folder + one["filename"]) == record.path
    assert set(content["_via_attributes"]["region"]["class"]["options"]) == {"ant", "big bee", "Käfer"}
    assert [r["region_attributes"] for r in one["regions"]][-2:] == [
        {"class": "ant", "group_id": "1"},
        {"class": "Käfer"},
    ]
    assert one["regions"][-1]["shape_attributes"] == {"name": "rect", "x": 0.5, "y": 1.0, "width": 2.5, "height": 1.5}


def test_predictions_keep_their_outlines_and_scores(tmp_path) -> None:
    to = write_all("via", tmp_path / "out", [predictions_of(tmp_path)])
    data = read_dataset(tmp_path / "out")
    assert data.record(0).scores.tolist() == [0.5, 0.75, 0.25]
    assert data.record(0).segmentations[0][0].tolist() == [[0.5, 0.75], [3.25, 0.75], [3.25, 3.5], [0.5, 3.5]]
    assert masks_of(data)[1].sum() == 24
    assert not to.lost
