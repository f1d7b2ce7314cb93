"""What tools write that means the same as COCO: numbers and flags as text, other shapes of lists, repeated entries."""

import gzip
import json

import numpy as np
import pytest

from maskrcnn.data.formats import find, read_dataset
from maskrcnn.data.validate import flag, integer, number, real
from maskrcnn.errors import DataError
from tests.data.coco_files import COMPRESSED, COUNTS, GOOD, SQUARE, coco, write


@pytest.mark.parametrize(
    ("word", "expected"),
    [("12", 12), (" -3 ", -3), ("1.0", 1.0), ("2e3", 2000.0), ("nan", None), ("0x1", None), ("", None), ("1_0", None)],
)
def test_a_text_may_be_a_number(word, expected) -> None:
    assert number(word) == expected
    assert integer(word) == (None if expected is None else int(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", False), ("false", False), ("No", False), ("0.0", False), ("", False), (None, False), (0.0, False),
     ("1", True), ("TRUE", True), ("yes", True), (2, True), ("perhaps", None), ([], None)],
)  # fmt: skip
def test_a_flag_is_what_it_says(value, expected) -> None:
    assert flag(value) is expected


def test_a_number_that_is_none_is_not_a_number() -> None:
    assert np.isnan([real(None), real("x"), real([]), real(10**400)]).all()
    assert real("1.5") == 1.5


def as_text(value):
    """All numbers of a json as text."""
    if isinstance(value, dict):
        return {key: as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    return str(value) if isinstance(value, int | float) else value


def test_every_number_may_be_text(tmp_path) -> None:
    plain = read_dataset(write(tmp_path, coco()))
    text = read_dataset(write(tmp_path, as_text(coco())))
    assert text.categories == plain.categories
    np.testing.assert_array_equal(text.objects.boxes, plain.objects.boxes)
    np.testing.assert_array_equal(text.objects.ignore, plain.objects.ignore)
    np.testing.assert_array_equal(text.objects.points, plain.objects.points)
    assert [text.stated_id(i) for i in range(3)] == ["7", "3", "5"]
    assert text.image_ids.tolist() == [7, 3, 5]


def test_text_ids_keep_their_text_and_do_not_depend_on_the_order(tmp_path) -> None:
    names = {7: "cam-b", 3: "cam-a", 5: "09"}
    numbers = []
    for step in (1, -1):
        content = coco()
        for image in content["images"]:
            image["id"] = names[image["id"]]
        for annotation in content["annotations"]:
            annotation["image_id"] = names[annotation["image_id"]]
        content["images"] = content["images"][::step]
        data = read_dataset(write(tmp_path, content))
        numbers.append({data.stated_id(i): int(data.image_ids[i]) for i in range(3)})
        assert {data.record(i).image_id: len(data.record(i).labels) for i in range(3)} == {
            "cam-b": 1,
            "cam-a": 3,
            "09": 0,
        }
    assert numbers == [{"09": 9, "cam-a": 10, "cam-b": 11}] * 2


def test_text_categories_are_numbered_and_their_ids_kept(tmp_path) -> None:
    content = coco(categories=[{"id": "p", "name": 5}, {"id": "a", "name": "apple"}])
    for annotation in content["annotations"]:
        annotation["category_id"] = "p" if annotation["category_id"] else "a"
    data = read_dataset(write(tmp_path, content))
    assert [(c.id, c.name, c.text_id) for c in data.categories] == [(1, "5", "p"), (2, "apple", "a")]
    assert data.record(1).labels.tolist() == [0, 1, 1]
    assert data.report.count("repair") == 2


POINTS = np.reshape(SQUARE, (-1, 2)).tolist()
SHAPES = {
    "pairs": POINTS,
    "nested pairs": [POINTS],
    "objects": [{"x": x, "y": y} for x, y in POINTS],
    "text": json.dumps([SQUARE]),
    "texts": [[str(value) for value in SQUARE]],
    "flat": SQUARE,
    "multi-polygon": [[POINTS]],
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_polygon_in_another_shape_is_read(name, tmp_path) -> None:
    data = read_dataset(write(tmp_path, coco(annotations=[GOOD | {"segmentation": SHAPES[name]}])), strict=True)
    np.testing.assert_array_equal(data.record(1).segmentations[0], [POINTS])


@pytest.mark.parametrize(
    "rle",
    [
        [{"size": ["10", 12.0], "counts": COUNTS}],
        {"counts": COUNTS},
        {"size": [10, 12], "counts": " ".join(map(str, COUNTS))},
        {"size": [10, 12], "counts": str(COMPRESSED.encode())},
        {"size": [10, 12], "counts": 'b"' + COMPRESSED.replace("\\", "\\\\") + '"'},
    ],
)
def test_run_lengths_in_another_shape_are_read(rle, tmp_path) -> None:
    data = read_dataset(write(tmp_path, coco(annotations=[GOOD | {"segmentation": rle}])), strict=True)
    assert data.record(1).segmentations[0][0].tolist() == COUNTS  # type: ignore[index]


@pytest.mark.parametrize("bad", [[[2, 3, 8, 7]], [[1, 1, 3, 3, 5, 5]], {"size": [9, 9], "counts": [81]}, "nothing", 5])
def test_a_good_box_is_kept_if_its_mask_is_none(bad, tmp_path) -> None:
    path = write(tmp_path, coco(annotations=[GOOD | {"segmentation": bad}, GOOD | {"id": 10}]))
    data = read_dataset(path)
    assert data.record(1).boxes.tolist() == [[2, 3, 8, 7]] * 2
    assert [mask is None for mask in data.record(1).segmentations] == [True, False]
    assert [(p.kind, p.annotation_id) for p in data.report.problems] == [("mask", 9)]
    assert "1 mask dropped" in data.report.summary()


def test_lists_may_be_objects_and_files_compressed(tmp_path) -> None:
    content = coco()
    content["annotations"] = {str(entry["id"]): entry for entry in content["annotations"]}
    path = write(tmp_path, coco())
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert read_dataset(path).objects.ids.tolist() == [2, 1, 3, 4]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="gzip that is truncated"):
        read_dataset(path)
    path.write_bytes(gzip.compress(b" " * (1 << 26)))
    with pytest.raises(DataError, match=r"gzip of more than|not valid json"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "a list of results"),
        (coco(annotations=[{"image_id": 3, "file_name": "a.png", "segments_info": []}]), "panoptic"),
        ({"images": [], "annotations": []}, "no list 'categories'"),
        ({"images": [], "annotations": [{"caption": "a pear"}]}, "captions"),
        ([coco()], "a list of COCO objects"),
        ({"coco": coco()}, "holds it in 'coco'"),
        ({"videos": [], "annotations": [], "categories": []}, "videos"),
        ({"images": [{"id": 1, "annotations": []}], "categories": []}, "annotations are in its images"),
        (coco(categories=["pear", "apple"]), "category 'pear' is not an object"),
    ],
)
def test_what_is_no_coco_is_named(content, words, tmp_path) -> None:
    with pytest.raises(DataError, match=words):
        read_dataset(write(tmp_path, coco()).parent / write(tmp_path, json.dumps(content)).name)


def test_another_encoding_is_named(tmp_path) -> None:
    path = write(tmp_path, coco())
    path.write_bytes(json.dumps(coco(info="Käse"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 \(byte 0xe4 .*iconv"):
        read_dataset(path)


def test_equal_categories_are_one_and_an_empty_namesake_harms_nobody(tmp_path) -> None:
    content = coco()
    content["categories"] += [content["categories"][0], {"id": 91, "name": "apple", "supercategory": "none"}]
    data = read_dataset(write(tmp_path, content))
    assert [(c.id, c.name) for c in data.categories] == [(0, "apple"), (90, "pear")]
    assert data.record(1).labels.tolist() == [1, 0, 0]


def test_an_image_listed_twice_is_joined_and_its_twins_dropped(tmp_path) -> None:
    content = coco()
    content["images"].append({"id": 99, "file_name": "b.png", "height": 10, "width": 12})
    content["annotations"] += [
        GOOD | {"image_id": 99},
        {"id": 20, "image_id": 99, "category_id": 0, "bbox": [0, 0, 3, 3]},
    ]
    data = read_dataset(write(tmp_path, content))
    assert data.image_ids.tolist() == [7, 3, 5]
    assert data.record(1).annotation_ids.tolist() == [1, 3, 4, 20]  # 9 is 1 again
    assert data.report.count("repair") == 2


def test_objects_of_an_id_with_two_files_go_to_neither(tmp_path) -> None:
    content = coco()
    content["images"].append({"id": 3, "file_name": "c.png", "height": 10, "width": 12})
    data = read_dataset(write(tmp_path, content))
    assert data.image_ids.tolist() == [7, 5]
    assert data.annotation_counts.tolist() == [1, 0]
    assert data.report.lost_with_image == 3
    assert data.report.count("image") == 2


def test_a_folder_with_one_coco_json_is_found(tmp_path) -> None:
    write(tmp_path, coco(), "result.json")
    (tmp_path / "notes.json").write_text("{}")
    assert find(tmp_path)["all"].path.name == "result.json"
    write(tmp_path, coco(), "my_val_set.json")
    write(tmp_path, coco(), "my_train_set.json")
    (tmp_path / "result.json").unlink()
    assert {split: source.path.name for split, source in find(tmp_path).items()} == {
        "train": "my_train_set.json",
        "val": "my_val_set.json",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, r"an image \(PNG\)"),
        (repr(coco()).encode(), "Python's own notation"),
        (b'{"image_id": 1}\n{"image_id": 2}\n', "one in each line"),
        (json.dumps(coco())[:-5].encode(), "perhaps truncated"),
    ],
)
def test_what_is_no_json_is_named(content, words, tmp_path) -> None:
    path = write(tmp_path, coco())
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_dataset(path)


def test_categories_may_be_an_object_and_objects_may_name_them(tmp_path) -> None:
    content = coco(categories={"0": "apple", "90": "pear"})
    for annotation in content["annotations"]:
        annotation["category_id"] = "pear" if annotation["category_id"] else "apple"
    data = read_dataset(write(tmp_path, content))
    assert [(c.id, c.name) for c in data.categories] == [(0, "apple"), (90, "pear")]
    assert data.record(1).labels.tolist() == [1, 0, 0]
    assert data.report.count("repair") == 4


@pytest.mark.parametrize("form", ["{}.png", "{}", "sub/{}.png"])
def test_objects_may_name_their_image_by_its_file(form, tmp_path) -> None:
    content = coco()
    names = {7: "a", 3: "b", 5: "empty"}
    for annotation in content["annotations"]:
        annotation["image_id"] = form.format(names[annotation["image_id"]])
    data = read_dataset(write(tmp_path, content))
    assert data.annotation_counts.tolist() == ([0, 0, 0] if "/" in form else [1, 3, 0])
    assert data.report.count("annotation") == (4 if "/" in form else 0)


def test_image_ids_of_more_than_64_bits_are_kept_as_text(tmp_path) -> None:
    content = coco()
    for entry, key in [(i, "id") for i in content["images"]] + [(a, "image_id") for a in content["annotations"]]:
        entry[key] += 1 << 100
    data = read_dataset(write(tmp_path, content))
    assert [data.stated_id(i) for i in range(3)] == [str((1 << 100) + i) for i in (7, 3, 5)]
    assert data.annotation_counts.tolist() == [1, 3, 0]


@pytest.mark.parametrize("key", ["filename", "path", "coco_url"])
def test_the_name_of_a_file_may_have_another_key(key, tmp_path) -> None:
    content = coco()
    path = write(tmp_path, content)
    for image in content["images"]:
        image[key] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    path.write_text(json.dumps(content))
    data = read_dataset(path)
    assert [data.name(i) for i in range(3)] == ["a.png", "b.png", "empty.png"]
    assert data.report.count("repair") == 3


def test_names_that_images_of_two_sizes_have_stand_for_neither(tmp_path) -> None:
    content = coco()
    content["images"].append({"id": 99, "file_name": "b.png", "height": 20, "width": 12})
    content["annotations"].append(GOOD | {"image_id": 99})
    data = read_dataset(write(tmp_path, content))
    assert data.image_ids.tolist() == [7, 5]
    assert data.report.count("image") == 2
    assert data.report.lost_with_image == 4


def test_annotations_that_are_there_twice(tmp_path) -> None:
    content = coco()
    content["annotations"] *= 2
    data = read_dataset(write(tmp_path, content))
    assert data.objects.ids.tolist() == [2, 1, 3, 4]
    assert [problem.reason for problem in data.report.problems] == ["object repeated with its id, left out"] * 4
    content["annotations"][4:] = [a | {"id": 10 + a["id"]} for a in content["annotations"][4:]]
    data = read_dataset(write(tmp_path, content))
    assert len(data.objects.ids) == 8
    assert "4 of 8 objects have the class, box and area of another" in data.report.contradictions[0].sentence


def test_a_box_that_is_not_four_numbers_is_named(tmp_path) -> None:
    bad = {"x": 1, "y": 2, "width": 3, "height": 4}
    data = read_dataset(
        write(tmp_path, coco(annotations=[GOOD | {"bbox": bad}, GOOD | {"bbox": bad, "segmentation": []}]))
    )
    assert [(problem.kind, problem.reason[:27]) for problem in data.report.problems] == [
        ("repair", "box that is not four number"),
        ("annotation", "box that is not four number"),
    ]
