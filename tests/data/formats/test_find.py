"""Which format a folder is in if names and contents do not say the same, what is passed over, and what is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import maskrcnn
from maskrcnn.data.formats import find, read_dataset
from maskrcnn.data.formats.strangers import what_is
from maskrcnn.errors import DataError
from tests.data.formats import test_labelme as labelme
from tests.data.formats import test_via as via

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]


def coco(*names: str, kind: str = "cell") -> dict[str, Any]:
    """A square in each image of 8 x 12 pixels."""
    return {
        "images": [{"id": i, "file_name": name, "height": 8, "width": 12} for i, name in enumerate(names, start=1)],
        "categories": [{"id": 1, "name": kind}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "segmentation": [SQUARE]} for i in range(1, len(names) + 1)
        ],
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8)).save(path)


def neighbours(folder: Path) -> list[str]:
    source = next(iter(find(folder).values()))
    problems = read_dataset(source).report.problems
    return [problem.detail for problem in problems if problem.reason.startswith("annotations beside")]


# --- content before names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{}.json", "annotations.json"])
def test_a_file_in_the_place_of_a_coco_json_may_be_of_another_tool(tmp_path, name) -> None:
    for split in ("train", "val"):
        entry = via.entry("a.png", [via.region(via.SQUARE, kind="cell")])
        via.write(tmp_path / split, via.annotations(entry), file=name.format(split))
    assert {split: source.format for split, source in find(tmp_path).items()} == {"train": "via", "val": "via"}


def test_an_image_that_is_called_test_does_not_make_its_json_coco(tmp_path) -> None:
    labelme.write(tmp_path, "test", [labelme.shape("cell", labelme.SQUARE)])
    labelme.write(tmp_path, "first", [labelme.shape("cell", labelme.SQUARE)])
    assert [source.format for source in find(tmp_path).values()] == ["labelme"]
    assert len(read_dataset(find(tmp_path)["all"])) == 2


def test_a_broken_file_in_that_place_is_still_named(tmp_path) -> None:
    write(tmp_path / "train.json", '{"images": [')
    with pytest.raises(DataError, match=r"train\.json: not valid json"):
        read_dataset(find(tmp_path)["train"])


def test_labels_without_names_of_classes_come_after_a_json_that_has_them(tmp_path) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.2 0.2\n")
    assert find(tmp_path)["all"].format == "yolo"
    write(tmp_path / "annotations.json", coco("a.png"))
    data = read_dataset(find(tmp_path)["all"])
    assert [category.name for category in data.categories] == ["cell"]
    write(tmp_path / "labels/classes.txt", "cell\n")
    assert find(tmp_path)["all"].format == "yolo"


# --- what is passed over ---------------------------------------------------------------------------------------------


def test_annotations_beside_those_that_are_read_are_told(tmp_path) -> None:
    entry = via.entry("a.png", [via.region(via.SQUARE, kind="cell")])
    via.write(tmp_path, via.project(entry))
    assert neighbours(tmp_path) == []
    write(tmp_path / "via_export.json", via.annotations(entry))
    write(tmp_path / "more.json", via.annotations(entry))
    assert neighbours(tmp_path) == ["more.json, via, and 1 more"]
    write(tmp_path / "a.coco.json", coco("a.png"))
    assert find(tmp_path)["all"].path.name == "a.coco.json"
    assert neighbours(tmp_path) == ["more.json, via, and 2 more"]


def test_other_splits_and_the_annotations_of_single_images_are_no_neighbours(tmp_path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / f"annotations/instances_{split}.json", coco(f"{split}.png"))
        write(tmp_path / f"annotations/person_keypoints_{split}.json", coco(f"{split}.png"))
        image(tmp_path / f"images/{split}.png")
    assert neighbours(tmp_path) == []
    labelme.write(tmp_path / "labelled", "a", [labelme.shape("cell", labelme.SQUARE)])
    labelme.write(tmp_path / "labelled", "b", [labelme.shape("cell", labelme.SQUARE)])
    assert neighbours(tmp_path / "labelled") == []
    write(tmp_path / "labelled/converted.json", coco("a.png"))
    labelme.write(tmp_path / "labelled", "c", [labelme.shape("cell", labelme.SQUARE)], image="a.png")
    assert neighbours(tmp_path / "labelled") == ["c.json, labelme"]


def test_a_json_comes_before_the_csv_of_the_same_annotations(tmp_path) -> None:
    for split in ("train", "val"):
        entry = via.entry("a.png", [via.region(via.SQUARE, kind="cell")])
        via.write(tmp_path / split, via.annotations(entry))
        row = f'a.png,1,"{{}}",1,0,{json.dumps(json.dumps(via.SQUARE))},"{{}}"'.replace('\\"', '""')
        head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        write(tmp_path / split / "via.csv", f"{head}\n{row}\n")
    assert {source.path.name for source in find(tmp_path).values()} == {"via.json"}
    assert neighbours(tmp_path) == ["via.csv, via, and 1 more"]


# --- tools that are not read -----------------------------------------------------------------------------------------

BOX = {"x": 1, "y": 1, "width": 4, "height": 4}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([{"ID": "c1", "DataRow ID": "c2", "Labeled Data": "https://a.example/a.png", "Label": {"objects": []}}],
         "Labelbox's own json"),
        ({"data_row": {"id": "c"}, "media_attributes": {}, "projects": {}}, "Labelbox's own json"),
        ({"description": "", "tags": [], "size": {"height": 8, "width": 12}, "objects": []}, "Supervisely's own json"),
        ({"version": "2.0", "schema_ref": "x", "item": {"name": "a.png"}, "annotations": []}, "V7's own json"),
        ({"dataset": "d", "image": {"filename": "a.png"}, "annotations": [{"bounding_box": {}, "name": "cell"}]},
         "V7's own json"),
        ([{"image": "a.png", "annotations": [{"label": "cell", "coordinates": BOX}]}], "CreateML's json of boxes"),
        ({"image": {"image_id": 1}, "annotations": [{"segmentation": {}, "predicted_iou": 0.9}]},
         "Segment Anything's json"),
        ({"asset": {"name": "a.png"}, "regions": [], "version": "2.1.0"}, "VoTT's own json.*export Pascal VOC"),
        ({"info": {}, "categories": {"label": {"labels": []}}, "items": []}, "Datumaro's own json.*datum convert"),
        ({"metadata": {"name": "a.png"}, "instances": [], "tags": []}, "SuperAnnotate's own json"),
        ({"samples": [{"filepath": "a.png", "ground_truth": {}}]}, "FiftyOne's own json"),
        ({"name": "d", "dataset": {"samples": []}}, r"Segments\.ai's own json"),
        ({"id": "1", "filename": "/a.png", "annotations": [{"label": "cell", "coordinates": []}]}, "Dataloop's own"),
        ([{"name": "a.png", "labels": [{"category": "car", "box2d": {}}]}], "BDD100K's json"),
        ({"imgHeight": 8, "imgWidth": 12, "objects": []}, "Cityscapes' json.*gtFine"),
        ({"images": [], "annotations": [{"image_id": 1, "id": 1, "caption": "a cell"}]}, "captions"),
        ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    ],
)  # fmt: skip
def test_what_other_tools_write_is_named_with_the_way_out(tmp_path, content, named) -> None:
    path = write(tmp_path / "labels/export.json", content)
    for place in (path, tmp_path, tmp_path / "labels"):
        with pytest.raises(DataError, match=rf"export\.json:? is {named}"):
            read_dataset(place)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.csv", "ImageId,EncodedPixels\n1,1 3\n", "run lengths of Kaggle"),
        ("a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "a table of boxes"),
        ("a.ndjson", '{"data_row": {}, "projects": {}}\n{"data_row": {}, "projects": {}}\n', "Labelbox's own json"),
        ("output.manifest", '{"source-ref": "s3://a/a.png", "a": {}}\n', "a manifest of SageMaker Ground Truth"),
    ],
)
def test_tables_and_lists_of_other_tools_are_named(tmp_path, name, text, named) -> None:
    path = write(tmp_path / name, text)
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=rf"{name}:? is {named}"):
            read_dataset(place)


def test_files_that_are_of_no_known_tool_are_named(tmp_path) -> None:
    write(tmp_path / "annotations.json", [{"boxes": {"0": {"xmin": 1}}}])
    with pytest.raises(DataError, match=r"annotations\.json is of none of them: export it as one of them"):
        find(tmp_path)
    assert what_is([]) is what_is(3) is what_is([[1]]) is what_is({}) is None


# --- nothing to convert ----------------------------------------------------------------------------------------------


def test_a_data_set_of_which_nothing_is_left_is_not_converted(tmp_path) -> None:
    image(tmp_path / "a.png")
    content = coco("a.png")
    del content["annotations"][0]["segmentation"]
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match="no object is left of 1; 1 were dropped: neither a segmentation nor a box"):
        maskrcnn.convert_data(path, tmp_path / "out", to="labelme")
    assert not (tmp_path / "out").exists()
    content["annotations"] = []
    write(path, content)
    assert maskrcnn.convert_data(path, tmp_path / "out", to="labelme").images == {"all": 1}  # background alone


def test_an_unlabelled_test_set_does_not_stop_the_rest(tmp_path) -> None:
    image(tmp_path / "images/a.png")
    image(tmp_path / "images/b.png")
    write(tmp_path / "annotations/instances_train.json", coco("a.png"))
    write(tmp_path / "annotations/instances_test.json", coco("b.png") | {"annotations": []})
    done = maskrcnn.convert_data(tmp_path, tmp_path / "out", to="labelme")
    assert (done.images, done.objects) == ({"train": 1, "test": 1}, 1)


def test_names_of_classes_that_almost_agree_are_told(tmp_path) -> None:
    from maskrcnn.data.dataset import match_categories

    image(tmp_path / "a.png")
    train = read_dataset(write(tmp_path / "train.json", coco("a.png", kind="Bike_cylinder")))
    val = read_dataset(write(tmp_path / "val.json", coco("a.png", kind="bike cylinder")))
    with pytest.raises(DataError, match=r"bike cylinder \('bike cylinder' is 'Bike_cylinder' there\); name them alike"):
        match_categories(train, val)
