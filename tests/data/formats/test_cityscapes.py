"""Cityscapes: polygons in their order, instanceIds, crowds and void areas as its own tools have them, and back."""

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
from maskrcnn.data.formats import ReadOptions, cityscapes
from maskrcnn.errors import DataError
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.formats.drawn import anything, damaged, layered, objects_in, read_all, reasons, record_of, save_image

SIZE = (6, 8)
BASE = "aachen_000000_000019"
PERSON, CAR, TRAILER, ROAD = 24, 26, 30, 7


def box(label: str, x1: int, y1: int, x2: int, y2: int, **more) -> dict:
    """A rectangle whose last pixel is (x2, y2): Cityscapes draws the edges, too."""
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **more}


def annotate(root: Path, objects: list | None = None, ids=None, *, split: str = "train", base: str = BASE) -> Path:
    """An image with polygons, instanceIds, or both, in the layout of the original."""
    city = base.split("_")[0]
    save_image(root / "leftImg8bit" / split / city / f"{base}_leftImg8bit.png", SIZE)
    folder = root / "gtFine" / split / city
    folder.mkdir(parents=True, exist_ok=True)
    if objects is not None:
        content = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}
        (folder / f"{base}_gtFine_polygons.json").write_text(json.dumps(content))
    if ids is not None:
        Image.fromarray(np.asarray(ids, np.uint16)).save(folder / f"{base}_gtFine_instanceIds.png")
    return root


def rectangle(kind: str, rows: slice, columns: slice, *, crowd: bool = False) -> tuple:
    bitmap = np.zeros(SIZE, bool)
    bitmap[rows, columns] = True
    return kind, crowd, *counts_from_bitmap(bitmap).tolist()


def test_polygons_are_drawn_in_order(tmp_path) -> None:
    objects = [
        box("road", 0, 0, 7, 5),
        box("car", 0, 0, 3, 1),
        box("car", 4, 0, 7, 3),
        box("sky", 0, 0, 0, 1),  # hides the first column of the first car
        box("person", 6, 2, 7, 4),  # stands before the second
        box("caravan", 0, 4, 3, 5),
        box("license plate", 5, 0, 6, 0),  # is not drawn
        box("bicyclegroup", 0, 3, 1, 3),
        box("rider", 3, 5, 3, 5, deleted=1),
    ]
    data = read_all(annotate(tmp_path, objects))["train"]
    assert [(category.id, category.name) for category in data.categories] == [
        (24, "person"), (25, "rider"), (26, "car"), (27, "truck"), (28, "bus"), (31, "train"), (32, "motorcycle"),
        (33, "bicycle"),
    ]  # fmt: skip
    behind = np.zeros(SIZE, bool)
    behind[:4, 4:] = True
    behind[2:4, 6:] = False
    assert objects_in(data)[f"{BASE}_leftImg8bit"] == sorted(
        [
            rectangle("car", slice(0, 2), slice(1, 4)),
            ("car", False, *counts_from_bitmap(behind).tolist()),
            rectangle("person", slice(2, 5), slice(6, 8)),
            rectangle("bicycle", slice(3, 4), slice(0, 2), crowd=True),
        ]
    )
    assert data.report.summary() == ""
    assert data.path(0) == tmp_path / f"leftImg8bit/train/aachen/{BASE}_leftImg8bit.png"


IDS = np.zeros(SIZE, np.uint16)
IDS[:2, :3], IDS[:2, 3:5], IDS[4, :], IDS[5, :4], IDS[5, 4:] = CAR * 1000, CAR * 1000 + 1, ROAD, PERSON, TRAILER * 1000
OF_IDS = sorted(
    [
        rectangle("car", slice(0, 2), slice(0, 3)),
        rectangle("car", slice(0, 2), slice(3, 5)),
        rectangle("person", slice(5, 6), slice(0, 4), crowd=True),
    ]
)


@pytest.mark.parametrize("place", [".", "gtFine", "gtFine/train"])
def test_instance_ids(tmp_path, place) -> None:
    (data,) = read_all(annotate(tmp_path, ids=IDS) / place).values()
    assert objects_in(data) == {f"{BASE}_leftImg8bit": OF_IDS}
    assert data.image_ids.tolist() == [1]
    assert len(data.fingerprint) == 64


def test_splits_and_the_test_set_without_annotations(tmp_path) -> None:
    for split in ("train", "val"):
        annotate(tmp_path, ids=IDS, split=split)
    void = [box("out of roi", 0, 0, 7, 0), box("ego vehicle", 0, 5, 7, 5)]
    annotate(tmp_path, void, split="test", base="berlin_000000_000019")
    save_image(tmp_path / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png", SIZE)
    found = read_all(tmp_path)
    assert list(found) == ["train", "val", "test"]
    assert len(found["test"]) == 0
    assert reasons(found["test"]) == reasons(found["val"]) == ["image without annotations"]
    assert objects_in(found["val"]) == {f"{BASE}_leftImg8bit": OF_IDS}
    assert len(read_all(tmp_path, unlabelled="background")["test"]) == 1


def test_images_elsewhere(tmp_path) -> None:
    annotate(tmp_path, ids=IDS)
    (tmp_path / "leftImg8bit").rename(tmp_path / "photos")
    assert objects_in(read_all(tmp_path, tmp_path / "photos")["train"]) == {f"{BASE}_leftImg8bit": OF_IDS}
    flat = save_image(tmp_path / "flat" / f"{BASE}.jpg", SIZE).parent
    assert objects_in(read_all(tmp_path, flat)["train"]) == {BASE: OF_IDS}
    save_image(flat / f"{BASE}_leftImg8bit.png", SIZE)
    with pytest.raises(DataError, match=rf"{BASE}\.jpg and {BASE}_leftImg8bit\.png may both be the image"):
        read_all(tmp_path, flat)


def test_instance_ids_are_believed_and_contradictions_reported(tmp_path) -> None:
    cars = [box("car", 0, 0, 2, 1), box("car", 3, 0, 4, 1), box("persongroup", 0, 5, 3, 5)]
    assert read_all(annotate(tmp_path, cars, IDS))["train"].report.summary() == ""
    for changed, detail in (
        (cars[:-1], "2 against 3 objects"),
        ([*cars[:-1], box("persongroup", 0, 5, 2, 5)], "1 pixels"),
    ):
        data = read_all(annotate(tmp_path, changed, IDS))["train"]
        assert objects_in(data) == {f"{BASE}_leftImg8bit": OF_IDS}
        assert reasons(data) == ["polygons and instanceIds that disagree, instanceIds are used"]
        assert detail in str(data.report.problems[0])


def test_a_broken_file_of_two_is_replaced_by_the_other(tmp_path) -> None:
    annotate(tmp_path, [box("car", 0, 0, 1, 1)], IDS)
    folder = tmp_path / "gtFine/train/aachen"
    (folder / f"{BASE}_gtFine_polygons.json").write_text("{")
    data = read_all(tmp_path)["train"]
    assert objects_in(data) == {f"{BASE}_leftImg8bit": OF_IDS}
    assert reasons(data) == ["polygons that cannot be read, instanceIds are used"]
    annotate(tmp_path, [box("car", 0, 0, 1, 1)])
    (folder / f"{BASE}_gtFine_instanceIds.png").write_bytes(b"broken")
    data = read_all(tmp_path)["train"]
    assert objects_in(data) == {f"{BASE}_leftImg8bit": [rectangle("car", slice(0, 2), slice(0, 2))]}
    assert reasons(data) == ["instanceIds that cannot be read, polygons are used"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (box("unicorn", 0, 0, 1, 1), "label that Cityscapes does not have"),
        ({"label": "car", "polygon": [[0, 0], [1, 1]]}, "polygon that is not 3 points or more"),
        ({"label": "car", "polygon": [[0, 0], [1, 1], [float("nan"), 2]]}, "polygon that is not 3 points or more"),
        ({"label": "car", "polygon": [[0, 0], [1, 1], [1e9, 2]]}, "polygon that is not 3 points or more"),
        ({"label": "car", "polygon": [0, 0, 1, 1]}, "polygon that is not 3 points or more"),
        ({"label": "car"}, "polygon that is not 3 points or more"),
        ({"polygon": []}, "object without a label"),
        (7, "object without a label"),
    ],
)
def test_bad_objects_are_left_out_and_named(tmp_path, entry, reason) -> None:
    annotate(tmp_path, [entry, box("car", 2, 2, 3, 3)])
    data = read_all(tmp_path)["train"]
    assert objects_in(data) == {f"{BASE}_leftImg8bit": [rectangle("car", slice(2, 4), slice(2, 4))]}
    assert reasons(data) == [reason]
    with pytest.raises(DataError, match=f"image 1: {reason} .*{BASE}_gtFine_polygons.json, object 0"):
        read_all(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not Cityscapes"),
        ('{"imgHeight": 6, "imgWidth": 8}', "not Cityscapes"),
        ('{"imgHeight": -6, "imgWidth": 8, "objects": []}', "not Cityscapes"),
        ('{"imgHeight": 99999, "imgWidth": 99999, "objects": []}', "99999 x 99999 pixels are more than"),
        ('{"imgHeight": 8, "imgWidth": 6, "objects": []}', "6 x 8, its annotation is 8 x 6"),
    ],
)
def test_lying_files_are_named(tmp_path, content, message) -> None:
    annotate(tmp_path, [])
    (tmp_path / f"gtFine/train/aachen/{BASE}_gtFine_polygons.json").write_text(content)
    data = read_all(tmp_path)["train"]
    assert len(data) == 0
    assert reasons(data) == ["annotation that cannot be read, or does not fit"]
    assert message in str(data.report.problems[0])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_file_breaks_the_reader(tmp_path, draw) -> None:
    """Whatever is in the files, there is a data set or a `DataError`."""
    coordinate = st.integers(-9, 99) | st.floats() | anything()
    polygon = st.lists(st.lists(coordinate, max_size=3) | anything(), max_size=5) | anything()
    label = st.sampled_from(["car", "cargroup", "sky", "unicorn", "license plate", "group"]) | anything()
    names = st.sampled_from(["label", "polygon", "instance", "deleted"])
    entry = st.fixed_dictionaries({"label": label, "polygon": polygon}) | st.dictionaries(names, anything())
    annotate(tmp_path, draw.draw(st.lists(entry | anything(), max_size=5)), IDS)
    folder = tmp_path / "gtFine/train/aachen"
    if draw.draw(st.booleans()):
        content = draw.draw(
            anything() | st.fixed_dictionaries({k: anything() for k in ("imgHeight", "imgWidth", "objects")})
        )
        (folder / f"{BASE}_gtFine_polygons.json").write_text(json.dumps(content))
    ids = folder / f"{BASE}_gtFine_instanceIds.png"
    ids.write_bytes(damaged(ids.read_bytes(), draw))
    with contextlib.suppress(DataError):
        assert len(read_all(tmp_path)["train"]) <= 1


def test_an_annotation_without_an_image(tmp_path) -> None:
    annotate(tmp_path, ids=IDS)
    annotate(tmp_path, ids=IDS, base="ulm_000000_000019")
    (tmp_path / f"leftImg8bit/train/aachen/{BASE}_leftImg8bit.png").unlink()
    data = read_all(tmp_path)["train"]
    assert reasons(data) == ["missing image file"]
    assert len(data) == 1


def test_other_folders_are_of_another_format(tmp_path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.json").write_text("{}")
    for place in (tmp_path, tmp_path / "train" / "a.json", tmp_path / "train"):
        assert cityscapes.find(place, ReadOptions()) == {}


# --- written and read ----------------------------------------------------------------------------------------------

CLASSES = [Category(3, "person"), Category(4, "car"), Category(9, "pear")]


def write(out: Path, records, images: Any = "copy", categories=CLASSES) -> Counter[str]:
    writer = cityscapes.Writer(out, categories, images)
    for record, split in records:
        writer.add(record, split)
    writer.close()
    return +writer.lost


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 9])),
    st.integers(0, 255),
)
def test_what_is_written_is_read_again(tmp_path_factory, labels, seed) -> None:
    """Holes, several parts, touching borders, one pixel, no object; from instanceIds, and from polygons alone."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(seed)
    image, bitmaps = save_image(folder / "in" / "a.png", labels.shape), layered(labels)
    kinds, crowds = rng.integers(0, 2, len(bitmaps)).tolist(), (rng.permutation(len(bitmaps)) == 0).tolist()
    record = record_of(image, bitmaps, kinds, labels.shape, crowds=crowds)
    assert not write(folder / "one", [(record, "train")])
    data = read_all(folder / "one")["train"]
    assert objects_in(data)["a_leftImg8bit"] == sorted(
        (CLASSES[kind].name, crowd, *counts_from_bitmap(bitmap).tolist())
        for kind, crowd, bitmap in zip(kinds, crowds, bitmaps, strict=True)
    )
    assert data.report.summary() == ""
    assert not write(folder / "two", [(data.record(0, exact=True), "train")], categories=data.categories)
    (path,) = (folder / "two").rglob("*instanceIds.png")
    path.unlink()
    again = read_all(folder / "two")["train"]
    assert objects_in(again) == objects_in(data)
    assert again.report.summary() == ""


@pytest.mark.parametrize("images", ["copy", "link", "refer"])
def test_names_and_splits(tmp_path, images) -> None:
    files = [save_image(tmp_path / "in" / name, SIZE) for name in ("a.png", "a.jpg", "town/a.png", f"{BASE}.png")]
    names = ["a.png", "a.jpg", "town/a.png", f"{BASE}.png"]
    bitmap = np.zeros(SIZE, bool)
    bitmap[2, 2] = True
    records = [
        (record_of(file, [bitmap], [1], SIZE, name=name, image_id=i), "all")
        for i, (file, name) in enumerate(zip(files, names, strict=True))
    ]
    assert not write(tmp_path / "out", records, images)
    places = ("images/a", "images/a-jpg-1", "town/a", f"aachen/{BASE}")
    assert sorted((tmp_path / "out" / "gtFine").rglob("*polygons.json")) == sorted(
        tmp_path / "out" / "gtFine" / f"{place}_gtFine_polygons.json" for place in places
    )
    if images != "refer":
        data = read_all(tmp_path / "out")["all"]
        assert len(data) == 4
        assert set(data.annotation_counts.tolist()) == {1}


def test_what_cityscapes_does_not_hold_is_counted(tmp_path) -> None:
    image, keypoints = save_image(tmp_path / "a.png", SIZE), np.zeros((5, 1, 3), np.float32)
    keypoints[0] = 1, 1, 2
    bitmaps = [np.zeros(SIZE, bool) for _ in range(4)]
    bitmaps[0][0, :2] = bitmaps[1][0, 1:3] = bitmaps[2][4, :4] = bitmaps[3][5, :4] = True
    record = record_of(
        image, [*bitmaps, None], [0, 1, 1, 1, 0], SIZE, crowds=[False, False, True, True, False], keypoints=keypoints
    )  # fmt: skip
    other = record_of(image, [bitmaps[0]], [2], SIZE, image_id=2)
    assert write(tmp_path / "out", [(record, "train"), (other, "val")]) == {
        "keypoints of an object": 1,
        "pixel of two objects": 1,
        "box without a mask": 1,
        "crowd as a region of its own": 1,
        "object of a class that Cityscapes does not have": 1,
    }
    assert objects_in(read_all(tmp_path / "out")["val"]) == {"a_leftImg8bit": []}


def test_predictions_are_results_of_the_evaluation_server(tmp_path) -> None:
    image, bitmaps = save_image(tmp_path / f"{BASE}_leftImg8bit.png", SIZE), [np.zeros(SIZE, bool) for _ in range(2)]
    bitmaps[0][:3, :3] = bitmaps[1][2:4, 2:4] = True
    record = record_of(image, bitmaps, [1, 0], SIZE, scores=[0.875, 0.5])
    write(tmp_path / "out", [(record, "val")])
    lines = (tmp_path / "out" / "results" / f"{BASE}.txt").read_text().splitlines()
    assert lines == [f"masks/{BASE}_0.png 26 0.875000", f"masks/{BASE}_1.png 24 0.500000"]
    for line, bitmap in zip(lines, bitmaps, strict=True):
        with Image.open(tmp_path / "out" / "results" / line.split(" ")[0]) as mask:
            np.testing.assert_array_equal(np.asarray(mask.convert("L")) != 0, bitmap)
    assert len(objects_in(read_all(tmp_path / "out")["val"])[f"{BASE}_leftImg8bit"]) == 2
