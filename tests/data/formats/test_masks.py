"""Instance masks: every layout in which tools leave them, what the masks mean, and the way out and back."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.cli import main as cli
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import ReadOptions, find, masks, read_dataset
from maskrcnn.data.formats.files import MOST_BYTES
from maskrcnn.errors import DataError
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.formats.drawn import anything, damaged, layered, objects_in, read_all, reasons, record_of, save_image

SIZE = (4, 5)
TWO = np.array([[1, 1, 0, 0, 0], [1, 0, 0, 300, 300], [0, 0, 0, 300, 300], [0, 0, 0, 0, 0]], np.uint16)
ONE = (TWO == 1).astype(np.uint8)
EMPTY = np.zeros(SIZE, np.uint8)


def save(path: Path, labels, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, **options)
    return path


def tree(root: Path, files: dict) -> Path:
    """Arrays are saved as masks, None as an image, text as it is."""
    for name, content in files.items():
        if content is None:
            save_image(root / name, SIZE)
        elif isinstance(content, str):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        else:
            save(root / name, content)
    return root


def objects(labels, kind: str = "object") -> list[tuple]:
    return sorted((kind, False, *counts_from_bitmap(bitmap).tolist()) for bitmap in layered(labels))


BOTH = {"a": objects(TWO), "b": objects(ONE)}


@pytest.mark.parametrize(
    "files",
    [
        {"images/a.png": None, "images/b.jpg": None, "masks/a.png": TWO, "masks/b.png": ONE},  # StarDist
        {"a.png": None, "b.png": None, "a_masks.tif": TWO, "b_masks.png": ONE},  # Cellpose
        {"a.png": None, "b.png": None, "a_cp_masks.png": TWO, "b_cp_masks.tif": ONE, "a_flows_cp_masks.tif": TWO,
         "a_cp_output.png": None, "a_seg.npy": ""},
        {"PNGImages/a.png": None, "PNGImages/b.png": None, "PedMasks/a_mask.png": TWO, "PedMasks/b_mask.png": ONE,
         "Annotation/a.txt": ""},  # Penn-Fudan
        {"a.tif": None, "b.tif": None, "labels/a_labels.tif": TWO, "labels/b-seg.tif": ONE},
        {"img/a.jpg": None, "img/b.jpg": None, "ann/x.txt": "", "masks_instances/a.jpg.png": TWO,
         "masks_instances/b.jpg.png": ONE},  # Supervisely
        {"raw/a.png": None, "raw/b.png": None, "gt/a_gt.png": TWO, "gt/b_instances.png": ONE},
        {"images/a.png": None, "images/b.png": None, "masks/a/1.png": ONE, "masks/a/2.png": (TWO > 1) * np.uint8(255),
         "masks/b/0.png": ONE * np.uint8(255)},
        {"b.png": None, "a.png": None, "label/a.label.png": TWO, "label/b label.png": ONE},
    ],
)  # fmt: skip
def test_layouts_of_tools(tmp_path, files) -> None:
    data = read_all(tree(tmp_path, files))["all"]
    assert objects_in(data) == BOTH
    assert data.report.summary() == ""


def test_cellpose_with_its_names_for_images(tmp_path) -> None:
    tree(tmp_path, {"a_img.png": None, "a_masks.png": TWO, "b_img.png": None, "b_masks.png": ONE})
    data = read_all(tmp_path)["all"]
    assert objects_in(data) == {f"{name}_img": found for name, found in BOTH.items()}
    assert data.report.summary() == ""


def test_a_folder_for_each_image_as_in_the_data_science_bowl(tmp_path) -> None:
    touching = np.zeros(SIZE, np.uint8)
    touching[:2, 1:3] = 255  # shares a pixel with ONE
    files = {"stage1_train/a/images/a.png": None, "stage1_train/b/images/b.png": None}
    files |= {"stage1_train/a/masks/0f3.png": ONE * np.uint8(255), "stage1_train/a/masks/77e.png": touching}
    files |= {"stage1_train/b/masks/1aa.png": ONE * np.uint8(255)}
    data = read_all(tree(tmp_path, files) / "stage1_train")["all"]
    assert objects_in(data) == {"a": sorted(objects(ONE) + objects(touching)), "b": objects(ONE)}
    assert data.path(0) == tmp_path / "stage1_train/a/images/a.png"


@pytest.mark.parametrize("inside", [False, True])
def test_splits_are_folders_around_or_inside(tmp_path, inside) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        images, masks = (f"images/{split}", f"masks/{split}") if inside else (f"{split}/images", f"{split}/masks")
        tree(tmp_path, {f"{images}/{name}.png": None, f"{masks}/{name}.png": TWO})
    found = read_all(tmp_path)
    assert {split: objects_in(data) for split, data in found.items()} == {
        "train": {"a": objects(TWO)},
        "val": {"b": objects(TWO)},
    }


def test_images_elsewhere(tmp_path) -> None:
    tree(tmp_path, {"here/sub/a.jpg": None, "labelled/sub/a.png": TWO})
    data = read_all(tmp_path / "labelled", tmp_path / "here")["all"]
    assert objects_in(data) == {"a": objects(TWO)}
    tree(tmp_path, {"split/train/masks/c.png": TWO, "photos/train/c.png": None})
    assert objects_in(read_all(tmp_path / "split", tmp_path / "photos")["train"]) == {"c": objects(TWO)}


def test_check_takes_the_folder_of_the_images(tmp_path, capsys) -> None:
    tree(tmp_path, {"here/a.jpg": None, "labelled/a.png": TWO})
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", str(tmp_path / "labelled"), "--images", str(tmp_path / "here")])
    assert stopped.value.code == 0
    assert "images       1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["empty", "images only", "file.png"])
def test_other_places_are_of_another_format(tmp_path, place) -> None:
    (tmp_path / "empty").mkdir()
    tree(tmp_path, {"images only/images/a.png": None, "images only/b.png": None, "file.png": ONE})
    assert masks.find(tmp_path / place, ReadOptions()) == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"images/a.png": None, "masks/a.png": ONE, "masks/a.tif": ONE}, r"a\.png and a\.tif may both be the mask of"),
        ({"a.png": None, "a_mask.png": ONE, "a_masks.png": ONE}, r"a_mask\.png and a_masks\.png may both be"),
        ({"images/a.png": None, "images/a.jpg": None, "masks/a.png": ONE}, r"a\.png may be the mask of a\.jpg and of"),
        ({"images/a.png": None, "masks/a.png": ONE, "masks/a/1.png": ONE}, r"a\.png and a/1\.png may both be"),
        ({"images/a.png": None, "masks/a.png": ONE, "labels/a.png": ONE}, "labels and masks may both be|both may hold"),
        ({"img/a.png": None, "raw/a.png": None, "masks/a.png": ONE}, "img and raw both hold images"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_an_error_that_names_both(tmp_path, files, message) -> None:
    with pytest.raises(DataError, match=message):
        find(tree(tmp_path, files))


@pytest.mark.parametrize("split", ["", "train/"])
def test_masks_without_any_image_are_named(tmp_path, split) -> None:
    tree(tmp_path, {f"{split}masks/a.png": ONE})
    with pytest.raises(DataError, match=r"masks: there are masks, but no images beside them; .*--images FOLDER"):
        find(tmp_path)
    tree(tmp_path, {f"{split}images/b.png": None})
    with pytest.raises(DataError, match=r"none of its 1 masks has the name of one of the 1 images.*a\.png and b\.png"):
        find(tmp_path)


def test_a_mask_of_the_same_name_comes_before_one_with_a_word_behind_it(tmp_path) -> None:
    tree(tmp_path, {"images/a.png": None, "images/a_gt.png": None, "masks/a.png": TWO, "masks/a_gt.png": ONE})
    assert objects_in(read_all(tmp_path)["all"]) == {"a": objects(TWO), "a_gt": objects(ONE)}
    tree(tmp_path / "2", {"images/a.png": None, "images/a.jpg": None, "masks/a.png.png": TWO, "masks/a.jpg.png": ONE})
    data = read_all(tmp_path / "2")["all"]
    assert [(data.name(i), data.annotation_counts[i]) for i in range(2)] == [("a.jpg", 1), ("a.png", 2)]


def test_images_without_masks_are_left_out_and_counted(tmp_path) -> None:
    files = {f"images/{name}.png": None for name in "abc"} | {"masks/b.png": TWO, "masks/c.png": EMPTY}
    tree(tmp_path, files | {"masks/x.png": ONE})
    data = read_all(tmp_path)["all"]
    assert objects_in(data) == {"b": objects(TWO), "c": []}  # an empty mask is background
    assert sorted(reasons(data)) == ["image without a mask", "mask without an image"]
    assert objects_in(read_all(tmp_path, unlabelled="background")["all"]) == {"a": [], "b": objects(TWO), "c": []}
    with pytest.raises(DataError, match=r"mask without an image.*x\.png"):
        read_all(tmp_path, strict=True)


def test_masks_of_wrong_sizes_and_broken_files_are_named(tmp_path) -> None:
    files = {f"images/{name}.png": None for name in "abcd"} | {"masks/a.png": TWO, "masks/b.png": TWO.T.copy()}
    tree(tmp_path, files | {"masks/c.png": "no image", "masks/d.png": ONE})
    (tmp_path / "images/d.png").write_bytes(b"broken")
    data = read_all(tmp_path)["all"]
    assert objects_in(data) == {"a": objects(TWO)}
    text = "\n".join(data.report.lines(9))
    for part in ("mask of another size than its image", "b.png: 5 x 4", "mask that cannot be read", "unreadable image"):
        assert part in text


def test_a_mask_of_the_image_as_it_is_stored(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "images/a.jpg", exif=exif)
    tree(tmp_path, {"masks/a.png": TWO})
    data = read_all(tmp_path)["all"]
    assert data.record(0).size == SIZE
    assert objects_in(data) == {"a": objects(TWO)}


# --- what masks mean -----------------------------------------------------------------------------------------------

REGIONS = np.array([[255, 255, 0, 0, 0], [255, 0, 0, 255, 255], [0, 0, 0, 255, 255], [0, 0, 0, 0, 0]], np.uint8)


@pytest.mark.parametrize("value", [1, 255])
def test_one_value_in_several_regions_is_a_question(tmp_path, value) -> None:
    tree(tmp_path, {"images/a.png": None, "masks/a.png": REGIONS // np.uint8(255 // value)})
    with pytest.raises(DataError, match=rf'one value each \({value}\), in 2 separate regions.*"separate".*masks\.json'):
        read_all(tmp_path)
    (tmp_path / "masks.json").write_text('{"regions": "separate", "class": "nucleus"}')
    assert objects_in(read_all(tmp_path)["all"]) == {"a": objects(TWO, "nucleus")}
    (tmp_path / "masks.json").write_text('{"regions": "together"}')
    assert objects_in(read_all(tmp_path)["all"]) == {"a": objects(REGIONS)}


def test_one_region_in_each_mask_is_no_question(tmp_path) -> None:
    tree(tmp_path, {"images/a.png": None, "masks/a.png": ONE * np.uint8(255)})
    assert objects_in(read_all(tmp_path)["all"]) == {"a": objects(ONE)}


def test_a_binary_mask_among_label_images_is_left_out(tmp_path) -> None:
    tree(tmp_path, {"images/a.png": None, "masks/a.png": TWO, "images/b.png": None, "masks/b.png": REGIONS})
    data = read_all(tmp_path)["all"]
    assert objects_in(data) == {"a": objects(TWO)}
    assert reasons(data) == ["mask of one value among label images"]


def test_an_object_in_several_parts_among_others_is_one_object(tmp_path) -> None:
    parts = np.array([[1, 0, 1, 0, 2], [0, 0, 0, 0, 2], [3, 3, 0, 0, 0], [0, 0, 0, 0, 0]], np.uint8)
    tree(tmp_path, {"images/a.png": None, "masks/a.png": parts})
    assert objects_in(read_all(tmp_path)["all"]) == {"a": objects(parts)}


def test_values_that_are_classes_are_a_question(tmp_path) -> None:
    classes = np.zeros(SIZE, np.uint8)
    classes[0, ::2], classes[2, ::2] = 1, 2
    tree(tmp_path, {f"images/{i}.png": None for i in range(5)} | {f"masks/{i}.png": classes for i in range(5)})
    with pytest.raises(DataError, match=r'10 of 10 values.*as classes do.*{"classes": {"1": "name"'):
        read_all(tmp_path)
    (tmp_path / "masks.json").write_text('{"classes": {"1": "pear", "2": "apple"}}')
    data = read_all(tmp_path)["all"]
    assert [category.name for category in data.categories] == ["pear", "apple"]
    assert np.bincount(data.objects.labels).tolist() == [15, 15]
    (tmp_path / "masks.json").write_text('{"classes": {"2": "apple"}}')
    assert reasons(read_all(tmp_path)["all"]) == ["object without a class in masks.json"] * 15


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([7 * 256, 26 * 256 + 1, 26 * 256 + 2], r"6658 seem to be 256 x class \+ number, as KITTI"),
        ([7, 23, 24003, 26000], r"26000 seem to be 1000 x class \+ number, as Cityscapes.*gtFine"),
    ],
)
def test_classes_and_numbers_in_one_are_a_question(tmp_path, values, told) -> None:
    mask = np.zeros(SIZE, np.uint16)
    mask.flat[: len(values)] = values
    tree(tmp_path, {f"images/{i}.png": None for i in range(2)} | {f"masks/{i}.png": mask for i in range(2)})
    with pytest.raises(DataError, match=told):
        read_all(tmp_path)
    (tmp_path / "masks.json").write_text('{"regions": "together"}')
    assert len(read_all(tmp_path)["all"].object_rows()) == 2 * len(values)


@pytest.mark.parametrize("values", [[256, 257], range(1, 700, 60), [24001, 24002], [300, 512, 70_000], [3, 256]])
def test_other_numbers_of_objects_are_taken_as_they_are(tmp_path, values) -> None:
    mask = np.zeros((*SIZE, 3), np.uint8)
    for place, value in enumerate(values):
        mask[divmod(place, SIZE[1])] = value >> 16, value >> 8 & 255, value & 255
    tree(tmp_path, {"images/a.png": None, "masks/a.png": mask})
    assert len(read_all(tmp_path)["all"].object_rows()) == len(values)


def test_colours(tmp_path) -> None:
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[TWO == 1], colours[TWO == 300] = (255, 0, 0), (0, 0, 255)
    tree(tmp_path, {"images/a.png": None, "masks/a.png": colours})
    assert objects_in(read_all(tmp_path)["all"]) == {"a": objects(TWO)}
    (tmp_path / "masks.json").write_text('{"classes": {"#ff0000": "pear", "#0000FF": "fig"}}')
    data = read_all(tmp_path)["all"]
    assert sorted(kind for kind, *_ in objects_in(data)["a"]) == ["fig", "pear"]


def test_folders_name_classes(tmp_path) -> None:
    tree(
        tmp_path, {"images/a.png": None, "masks/pear/a.png": TWO, "masks/fig/a/0.png": ONE, "masks/fig/a/1.png": EMPTY}
    )
    data = read_all(tmp_path)["all"]
    assert [category.name for category in data.categories] == ["fig", "pear"]
    assert objects_in(data) == {"a": sorted(objects(ONE, "fig") + objects(TWO, "pear"))}


def test_a_table_names_classes(tmp_path) -> None:
    tree(tmp_path, {"images/a.png": None, "images/b.png": None, "masks/a.png": TWO, "masks/b.png": TWO})
    table = "\ufeffid,mask,class,score\n300,a.png,pear,0.25\n1,a.png,fig,\n1,b.png,fig,\n"
    (tmp_path / "masks.csv").write_text(table, encoding="utf-8")
    data = read_all(tmp_path)["all"]
    assert objects_in(data) == {
        "a": sorted(objects(TWO == 300, "pear") + objects(ONE, "fig")),
        "b": objects(ONE, "fig"),
    }
    np.testing.assert_array_equal(data.objects.scores, [np.nan, 0.25, np.nan])
    assert [str(problem) for problem in data.report.problems] == [
        f"{tmp_path.name}, image 2: object without a class in masks.csv (b.png, value 300)"
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("masks.csv", "mask,id\n", "masks.csv: there is no column class"),
        ("masks.csv", "mask,id,class\na.png,x,pear\n", "masks.csv, line 2: .*'x'"),
        ("masks.csv", "mask,id,class\na.png\n", "masks.csv, line 2"),
        ("masks.csv", "mask,id,class,crowd\na.png,1,pear,perhaps\n", "line 2.*perhaps"),
        ("masks.csv", "mask,id,class\n\udcff", "masks.csv"),
        ("masks.json", "{", r"masks\.json: not valid json"),
        ("masks.json", "[]", r"masks\.json: expected an object"),
        ("masks.json", '{"region": "separate"}', "expected an object with class, classes or regions"),
        ("masks.json", '{"regions": 1}', 'regions must be "separate"'),
        ("masks.json", '{"classes": [1]}', "must be names"),
        ("masks.json", '{"classes": 7}', "must be names"),
        ("masks.json", '{"class": ""}', "must be names"),
        ("masks.json", '{"classes": {"one": "pear"}}', "must have values such as"),
    ],
)
def test_settings_and_tables_that_cannot_be_read(tmp_path, name, content, message) -> None:
    tree(tmp_path, {"images/a.png": None, "masks/a.png": TWO})
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_all(tmp_path)


def test_settings_around_the_splits_are_theirs_only(tmp_path) -> None:
    (tmp_path / "masks.json").write_text('{"class": "pear"}')
    for place in ("set", "divided/train"):
        tree(tmp_path / place, {"images/a.png": None, "masks/a.png": ONE})
    (tmp_path / "divided" / "masks.json").write_text('{"class": "fig"}')
    assert objects_in(read_all(tmp_path / "set")["all"]) == {"a": objects(ONE)}
    assert objects_in(read_all(tmp_path / "divided")["train"]) == {"a": objects(ONE, "fig")}


def test_a_table_of_any_size_is_not_read(tmp_path) -> None:
    tree(tmp_path, {"images/a.png": None, "masks/a.png": TWO})
    with (tmp_path / "masks.csv").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match=r"masks\.csv: 268,435,457 bytes"):
        read_all(tmp_path)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_file_breaks_the_reader(tmp_path, draw) -> None:
    """Whatever is in the files, there is a data set or a `DataError`."""
    tree(tmp_path, {"images/a.png": None, "masks/a.png": TWO})
    save(tmp_path / "masks" / "b.tif", TWO, compression="tiff_lzw")
    save_image(tmp_path / "images" / "b.png", SIZE)
    known = st.dictionaries(st.sampled_from(["class", "classes", "regions"]), anything() | st.just("separate"))
    (tmp_path / "masks.json").write_text(json.dumps(draw.draw(st.just({}) | known | anything())))
    cell = st.sampled_from(["a.png", "1", "300", "pear", "0.5", '"', "\n", "é", "-1", "9" * 30]) | st.text(max_size=3)
    rows = draw.draw(st.lists(st.lists(cell, max_size=5), max_size=4))
    table = "\n".join(",".join(row) for row in [["mask", "id", "class", "crowd", "score"], *rows])
    (tmp_path / "masks.csv").write_bytes(damaged(table.encode("utf-8", "surrogatepass"), draw))
    for name in ("a.png", "b.tif"):
        path = tmp_path / "masks" / name
        path.write_bytes(damaged(path.read_bytes(), draw))
    with contextlib.suppress(DataError):
        assert len(read_all(tmp_path)["all"]) <= 2


def test_the_fingerprint_is_that_of_masks_and_classes(tmp_path) -> None:
    tree(tmp_path, {"images/a.png": None, "masks/a.png": TWO})
    seen = [read_all(tmp_path)["all"].fingerprint]
    (tmp_path / "masks.json").write_text('{"class": "pear"}')
    seen.append(read_all(tmp_path)["all"].fingerprint)
    tree(tmp_path, {"masks/a.png": ONE})
    seen.append(read_all(tmp_path)["all"].fingerprint)
    assert len(set(seen)) == 3
    assert read_all(tmp_path)["all"].fingerprint == seen[-1]


# --- written and read ----------------------------------------------------------------------------------------------

PEAR, FIG = Category(7, "pear"), Category(3, "fig, dried")


def write(out: Path, records, images: Any = "copy") -> Counter[str]:
    writer = masks.Writer(out, [FIG, PEAR], images)
    for record, split in records:
        writer.add(record, split)
    writer.close()
    return writer.lost


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from([0, 1, 2, 9])),
    st.integers(0, 255),
)
def test_what_is_written_is_read_again(tmp_path_factory, labels, seed) -> None:
    """Holes, several parts, touching borders, one pixel, no object at all."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(seed)
    image, bitmaps = save_image(folder / "in" / "a.png", labels.shape), layered(labels)
    kinds, crowds = rng.integers(0, 2, len(bitmaps)).tolist(), (rng.random(len(bitmaps)) < 0.3).tolist()
    record = record_of(image, bitmaps, kinds, labels.shape, crowds=crowds)
    assert not write(folder / "one", [(record, "all")])
    data = read_all(folder / "one")["all"]
    names = [FIG.name, PEAR.name]
    assert objects_in(data)["a"] == sorted(
        (names[kind], crowd, *counts_from_bitmap(bitmap).tolist())
        for kind, crowd, bitmap in zip(kinds, crowds, bitmaps, strict=True)
    )
    assert data.report.summary() == ""
    assert not write(folder / "two", [(data.record(0, exact=True), "all")])
    assert objects_in(read_all(folder / "two")["all"]) == objects_in(data)


@pytest.mark.parametrize("images", ["copy", "link", "refer"])
def test_splits_scores_and_names(tmp_path, images) -> None:
    first = save_image(tmp_path / "in" / "sub" / "a.png", SIZE)
    second = save_image(tmp_path / "in" / "a.jpg", SIZE)
    third = save_image(tmp_path / "in" / "a.png", SIZE)
    fourth = save_image(tmp_path / "in" / "b.png", SIZE)
    predicted = record_of(first, layered(TWO), [0, 1], SIZE, name="sub/a.png", scores=[0.125, np.nan])
    records = [(predicted, "train"), (record_of(second, [ONE > 0], [1], SIZE), "train")]
    records += [(record_of(third, [], [], SIZE), "train"), (record_of(fourth, layered(TWO), [1, 1], SIZE), "val")]
    assert not write(tmp_path / "out", records, images)
    assert (tmp_path / "out" / "train" / "images").exists() == (images != "refer")
    found = read_all(tmp_path / "out", tmp_path / "in" if images == "refer" else None)
    data = found["train"]
    assert {data.name(i): len(data.record(i).labels) for i in range(3)} == {"a.jpg": 1, "a.png": 0, "sub/a.png": 2}
    (place,) = (i for i in range(3) if data.name(i) == "sub/a.png")
    assert data.path(place).resolve() == first.resolve() or images == "copy"
    np.testing.assert_array_equal(data.record(place).scores, [0.125, np.nan])
    assert [category.name for category in data.categories] == [FIG.name, PEAR.name]
    assert objects_in(found["val"])["b"] == objects(TWO, "pear")


def test_polygons_are_drawn_as_coco_does(tmp_path) -> None:
    image = save_image(tmp_path / "a.png", (20, 30))
    polygon = np.array([[3.3, 2.2], [25.8, 4.1], [11.6, 17.4]])
    record = record_of(image, [[polygon]], [0], (20, 30))
    write(tmp_path / "out", [(record, "all")])
    bitmap = draw_bitmap([polygon], (20, 30))
    assert objects_in(read_all(tmp_path / "out")["all"])["a"] == [
        ("fig, dried", False, *counts_from_bitmap(bitmap).tolist())
    ]


def test_what_no_label_image_holds_is_counted(tmp_path) -> None:
    image, keypoints = save_image(tmp_path / "a.png", SIZE), np.zeros((3, 2, 3), np.float32)
    keypoints[0, 0] = 1, 1, 2
    record = record_of(image, [ONE > 0, ONE > 0, None], [0, 0, 1], SIZE, keypoints=keypoints)
    assert write(tmp_path / "out", [(record, "all")]) == {
        "keypoints of an object": 1,
        "pixel of two objects": 3,
        "object wholly under others": 1,
        "box without a mask": 1,
    }
    assert len(objects_in(read_all(tmp_path / "out")["all"])["a"]) == 1


def test_more_objects_than_16_bits_count(tmp_path) -> None:
    record = record_of(save_image(tmp_path / "a.png", SIZE), [ONE > 0], [1], SIZE)
    n = 65536  # boxes without masks, but for the last
    record = record._replace(
        segmentations=[None] * (n - 1) + record.segmentations,
        **{name: np.repeat(getattr(record, name), n) for name in ("areas", "labels", "ignore")},
    )
    assert write(tmp_path / "out", [(record, "all")]) == {"box without a mask": n - 1}
    with Image.open(tmp_path / "out" / "masks" / "a.tif") as image:
        assert np.asarray(image).max() == n
    assert objects_in(read_all(tmp_path / "out")["all"]) == {"a": objects(ONE, "pear")}


@pytest.mark.data
@pytest.mark.parametrize("name", ["pennfudan", "nuclei"])
def test_real_masks_are_the_same_after_writing_them(tmp_path, test_data, name) -> None:
    given = read_dataset(test_data / name / "val.json")
    writer = masks.Writer(tmp_path, given.categories, "link")
    for i in range(len(given)):
        writer.add(given.record(i, exact=True))
    writer.close()
    again = read_all(tmp_path)["all"]
    before, after = objects_in(given), objects_in(again)
    assert before.keys() == after.keys()
    lost = sum(len(Counter(before[key]) - Counter(after[key])) for key in before)
    assert lost <= 2 * writer.lost["pixel of two objects"]
    assert lost < 0.02 * len(given.objects.labels)
    assert len(again.objects.labels) == len(given.objects.labels)
