"""YOLO: layouts of Ultralytics, Roboflow, Darknet, CVAT and Label Studio, and what is written and read again."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.dataset import Shape
from maskrcnn.data.formats import ReadOptions, find, read_dataset
from maskrcnn.errors import DataError
from tests.data.formats.annotated import CATEGORIES, assert_same, contents, read_back, record, scenes, written

SQUARE = "0 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6"  # of an image of 20 x 10: x 5..15, y 2..6
SQUARE_PIXELS = np.zeros((10, 20), bool)
SQUARE_PIXELS[2:6, 5:15] = True


def image(path: Path, size: tuple[int, int] = (10, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0])).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def ultralytics(folder: Path) -> Path:
    for split in ("train", "val"):
        image(folder / "images" / split / "a.jpg")
        write(folder / "labels" / split / "a.txt", f"{SQUARE}\n1 0.5 0.5 0.5 0.4\n")
    image(folder / "images" / "train" / "empty.png")
    write(folder / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: disc\n  1: star\n")
    return folder


def roboflow(folder: Path) -> Path:
    for split in ("train", "valid"):
        image(folder / split / "images" / "a.jpg")
        write(folder / split / "labels" / "a.txt", f"{SQUARE}\n1 0.5 0.5 0.5 0.4")
    image(folder / "train" / "images" / "empty.png")
    write(
        folder / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['disc', 'star']\n",
    )
    return folder


def lists(folder: Path) -> Path:
    """CVAT's "Ultralytics YOLO Segmentation": lists, whose lines begin at the folder above."""
    ultralytics(folder)
    write(folder / "train.txt", "data/images/train/a.jpg\ndata/images/train/empty.png\n")
    write(folder / "val.txt", "./images/val/a.jpg\n")
    write(folder / "data.yaml", "path: ./\ntrain: train.txt\nval: val.txt\nnames: {0: disc, 1: star}\n")
    return folder


def darknet(folder: Path) -> Path:
    """CVAT's "YOLO 1.1": labels beside the images."""
    image(folder / "obj_train_data" / "a.jpg")
    image(folder / "obj_train_data" / "empty.png")
    write(folder / "obj_train_data" / "a.txt", f"{SQUARE}\n1 0.5 0.5 0.5 0.4\n")
    write(folder / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(folder / "obj.names", "disc\nstar\n")
    write(folder / "train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/empty.png\n")
    return folder


def label_studio(folder: Path) -> Path:
    image(folder / "images" / "a.jpg")
    image(folder / "images" / "empty.png")
    write(folder / "labels" / "a.txt", f"{SQUARE}\n1 0.5 0.5 0.5 0.4\n")
    write(folder / "classes.txt", "disc\nstar\n")
    write(folder / "notes.json", "{}")
    return folder


def roboflow_darknet(folder: Path) -> Path:
    """Roboflow's "YOLO Darknet": labels beside the images, the classes beside them, too."""
    for split in ("train", "valid"):
        image(folder / split / "a.jpg")
        write(folder / split / "a.txt", f"{SQUARE}\n1 0.5 0.5 0.5 0.4")
        write(folder / split / "_darknet.labels", "disc\nstar\n")
    image(folder / "train" / "empty.png")
    return folder


@pytest.mark.parametrize("layout", [ultralytics, roboflow, lists, darknet, label_studio, roboflow_darknet])
def test_layouts(tmp_path, layout) -> None:
    place = layout(tmp_path / "data")
    splits = find(place, ReadOptions())
    assert {source.format for source in splits.values()} == {"yolo"}
    data = read_dataset(splits.get("train") or splits["all"])
    assert [(c.id, c.name) for c in data.categories] == [(0, "disc"), (1, "star")]
    assert data.image_ids.tolist() == [1, 2]
    assert [Path(data.name(i)).name for i in range(2)] == ["a.jpg", "empty.png"]
    first, second = data.record(0), data.record(1)
    assert first.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(draw_bitmap(first.segmentations[0], (10, 20)), SQUARE_PIXELS)
    assert first.segmentations[1] is None
    assert first.boxes.tolist() == [[5, 2, 15, 6], [5, 3, 15, 7]]
    assert not len(second.labels)
    assert not data.report.problems
    if "val" in splits:
        assert read_dataset(splits["val"]).record(0).labels.tolist() == [0, 1]


def test_a_yaml_may_be_given_itself_and_then_lead_elsewhere(tmp_path, monkeypatch) -> None:
    ultralytics(tmp_path / "far" / "data")
    write(tmp_path / "here" / "mine.yaml", "path: ../far/data\ntrain: images/train\nnames: [disc, star]\n")
    assert len(read_back(tmp_path / "here" / "mine.yaml")) == 2
    with pytest.raises(DataError, match="train is images/train, which is not in"):
        read_back(tmp_path / "here")
    write(tmp_path / "here" / "mine.yaml", f"train: {tmp_path}/far/data/images/train\nnames: [disc, star]\n")
    assert len(read_back(tmp_path / "here" / "mine.yaml")) == 2
    with pytest.raises(DataError, match="which is not in"):
        read_back(tmp_path / "here")


def test_absolute_paths_of_another_machine_are_found_below_the_folder(tmp_path) -> None:
    folder = ultralytics(tmp_path / "data")
    yaml_text = (
        "train: C:\\\\Users\\\\me\\\\data\\\\images\\\\train\nval: /srv/me/data/images/val\nnames: [disc, star]\n"
    )
    write(folder / "data.yaml", yaml_text)
    assert [len(read_dataset(source)) for source in find(folder).values()] == [2, 1]


def test_a_folder_with_only_the_last_name_is_not_taken_for_another(tmp_path) -> None:
    folder = label_studio(tmp_path / "data")
    write(folder / "data.yaml", "train: images\nval: valid/images\nnames: [disc, star]\n")
    assert len(read_back(folder, "train")) == 2
    with pytest.raises(DataError, match="val is valid/images, which is not in"):
        read_back(folder, "val")


def test_links_out_of_the_folder_are_not_followed_by_a_list(tmp_path) -> None:
    image(tmp_path / "secret" / "a.jpg")
    write(tmp_path / "data" / "data.yaml", "train: images\nnames: [disc]\n")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="which is not in"):
        read_back(tmp_path / "data")


def test_names(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    for text, expected in (
        ("names: [2, 1.5]", ["2", "1.5"]),
        ("names: {1: b, 0: a}", ["a", "b"]),
        ("names: {'0': a, '1': b}", ["a", "b"]),
        ("nc: 2", ["class_0", "class_1"]),
    ):
        write(folder / "data.yaml", f"train: images/train\n{text}\n")
        assert [c.name for c in read_back(folder).categories] == expected
    for text in ("names: {0: a, 2: b}", "names: 3", "names: {}", "names: [[1]]", "names: {a: b}"):
        write(folder / "data.yaml", f"train: images/train\n{text}\n")
        with pytest.raises(DataError, match="names must be"):
            read_back(folder)


def test_labels_without_names_are_named_by_their_numbers(tmp_path) -> None:
    folder = label_studio(tmp_path)
    (folder / "classes.txt").unlink()
    data = read_back(folder)
    assert [c.name for c in data.categories] == ["0", "1"]
    assert "named by their numbers" in data.report.problems[0].reason


def test_lines_that_are_no_objects_name_no_classes(tmp_path) -> None:
    """Such as those of another tool, in pixels, whose first number is no class."""
    image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "305 200 1010 429 591.7 295.7 593.8 363.6\n1.0 0.5 0.5 0.2 0.2\n77 0.5 0.5\n")
    data = read_dataset(tmp_path)
    assert [category.name for category in data.categories] == ["0", "1"]
    assert len(data.object_rows()) == 1
    reasons = {problem.reason for problem in data.report.problems}
    assert {"coordinates that are not relative to the image (0 to 1)", "line with fewer than 5 values"} < reasons


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.1 0.2 0.3", "fewer than 5 values"),
        ("0 0.1 0.2 x 0.3", "not a list of numbers"),
        ("5 0.5 0.5 0.1 0.1", "class number without a name"),
        ("0.5 0.5 0.5 0.1 0.1", "class number without a name"),
        ("0 10 20 30 40", "not relative"),
        ("0 nan 0.5 0.1 0.1", "not relative"),
        ("0 0.5 0.5 0.1 inf", "not relative"),
        ("0 1e999 0.5 0.1 0.1", "not relative"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 7.5", "odd number of coordinates"),
        ("0 0.5 0.5 0.4 0.4 0.5 0.5 2", "keypoint (pose) line"),
        ("0 0.1 0.1 0.5 0.1 0.9 0.1", "polygon without an area"),
    ],
)
def test_a_bad_line_is_counted_and_the_others_are_kept(tmp_path, line, reason) -> None:
    folder = ultralytics(tmp_path)
    write(folder / "labels/train/a.txt", f"{SQUARE}\n\n{line}\n")
    data = read_back(folder, "train")
    assert len(data.object_rows()) == 1
    assert data.report.annotations_in_file == 2
    (problem,) = data.report.problems
    assert reason in problem.reason
    with pytest.raises(DataError, match=str(folder)):
        read_back(folder, "train", strict=True)


def test_confidences_are_scores(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    write(folder / "labels/train/a.txt", f"{SQUARE} 0.25\n1 0.5 0.5 0.5 0.4 0.75\n1 0.5 0.5 0.5 0.4\n")
    own = read_back(folder, "train").record(0)
    np.testing.assert_array_equal(own.scores, [0.25, 0.75, np.nan])
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[0], (10, 20)), SQUARE_PIXELS)


def test_keypoints_are_refused(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    with (folder / "data.yaml").open("a") as file:
        file.write("kpt_shape: [17, 3]\n")
    with pytest.raises(DataError, match=r"kpt_shape .* keypoints \(pose\)"):
        find(folder)
    write(folder / "data.yaml", "train: images/train\nnames: [disc]\n")
    write(folder / "labels/train/a.txt", "0 0.5 0.5 0.4 0.4 0.5 0.5 2 0.3 0.3 1 0.2 0.2 0\n")
    with pytest.raises(DataError, match="its labels are keypoints"):
        read_back(folder)


def test_a_merged_polygon_of_two_parts_is_both(tmp_path) -> None:
    """As Ultralytics joins them: there and back between the nearest corners."""
    folder = ultralytics(tmp_path)
    left, right = [(2, 2), (6, 2), (6, 6), (2, 6)], [(10, 4), (14, 4), (14, 8), (10, 8)]
    ring = [*left[1:3], *right[3:], *right[:3], right[3], left[2], *left[3:], left[0], left[1]]
    values = " ".join(f"{x / 20} {y / 10}" for x, y in ring)
    write(folder / "labels/train/a.txt", f"0 {values}\n")
    expected = np.zeros((10, 20), bool)
    expected[2:6, 2:6] = expected[4:8, 10:14] = True
    own = read_back(folder, "train").record(0)
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[0], (10, 20)), expected)


def test_images_without_labels_are_background_unless_skipped(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    write(folder / "labels/train/gone.txt", SQUARE)
    data = read_back(folder, "train")
    assert len(data) == 2
    assert [problem.reason for problem in data.report.problems] == ["label file without an image"]
    skipped = read_back(folder, "train", unlabelled="skip")
    assert len(skipped) == 1
    assert skipped.report.images_in_file == 3
    write(folder / "labels/train/empty.txt", "\n")  # a label file that says that there is nothing
    assert len(read_back(folder, "train", unlabelled="skip")) == 2


def test_a_list_names_what_is_missing(tmp_path) -> None:
    folder = lists(tmp_path / "data")
    write(folder / "train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n../../etc/passwd\n")
    data = read_back(folder, "train")
    assert len(data) == 1
    reasons = sorted(problem.reason for problem in data.report.problems)
    assert reasons == ["file name that leaves the image folder", "missing image file"]


def test_an_image_that_cannot_be_read_is_reported_with_its_objects(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    (folder / "images/train/a.jpg").write_bytes(b"no image")
    data = read_back(folder, "train")
    assert len(data) == 1
    assert data.report.lost_with_image == 2


def test_exif_turns_the_image(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (10, 20)).save(folder / "images/train/a.jpg", exif=exif)  # seen as 10 high and 20 wide
    assert read_back(folder, "train").record(0).boxes.tolist()[0] == [5, 2, 15, 6]


BOMB = "a: &a [x]\n" + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 99)}]\n" for x, y in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    "text",
    [
        "train: [",
        "train: images\nnames: &a [*a]\n",
        "{" * 5000,
        "names: !!python/object/apply:os.system ['touch /tmp/owned']\ntrain: images\n",
        "train: 2001-99-99\nnames: [a]\n",
        "train: {a: b}\nnames: [a]\n",
        BOMB + "train: images\nnames: *i\n",
        BOMB + "train: *i\nnames: [a]\n",
        BOMB + "train: images\nnames: {*i : a}\n",
        "train: 3\nnames: [a]\n",
    ],
)
def test_a_broken_yaml_is_one_sentence(tmp_path, text) -> None:
    write(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=r"data\.yaml") as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_yaml_of_something_else_is_passed_over(tmp_path) -> None:
    folder = ultralytics(tmp_path)
    (folder / "data.yaml").rename(folder / "coco8.yaml")
    write(folder / "args.yaml", "model: x\ndata: y\n")
    write(folder / "large.yaml", "a" * (1 << 22))
    assert len(read_back(folder, "train")) == 2
    write(folder / "other.yaml", "train: images/train\nnames: [a]\n")
    with pytest.raises(DataError, match=r"coco8\.yaml, other\.yaml all describe data; name one"):
        find(folder)


@settings(max_examples=25)
@given(scenes())
def test_write_read_write(drawn) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = [record(folder / "in", f"{i}.png", size, own) for i, (size, own, _) in enumerate(drawn)]
        one = written("yolo", folder / "one", records)
        data = read_back(folder / "one")
        assert_same(data, records)
        assert not data.report.problems
        again = [data.record(i, exact=True) for i in range(len(data))]
        written("yolo", folder / "two", again)
        for path in sorted((folder / "one" / "labels").iterdir()):
            first, second = path.read_text(), (folder / "two" / "labels" / path.name).read_text()
            assert first == second
        assert set(one.lost) <= {"mask of several outlines, joined to one by lines of no width"}


@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-8, 48), st.integers(-8, 48)), min_size=3, max_size=6, unique=True),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_keep_their_pixels(polygons) -> None:
    """Of any form: overlapping, crossing themselves, leaving the image; in quarters of a pixel."""
    rings = [np.array(polygon, dtype=float) / 4 for polygon in polygons]
    if not draw_bitmap(rings, (10, 10)).any():
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = record(folder, "a.png", (10, 10), [(0, rings)])
        written("yolo", folder / "out", [one])
        (mask,) = contents(read_back(folder / "out"))["a.png"][2]
        np.testing.assert_array_equal(mask, draw_bitmap(rings, (10, 10)))
        values = (folder / "out/labels/a.txt").read_text().split()[1:]
        assert all(0 <= float(value) <= 1 for value in values)  # or Ultralytics leaves the image out


def test_what_is_written_is_ultralytics_layout(tmp_path) -> None:
    own = record(tmp_path / "in", "sub/a.png", (10, 20), [(1, SQUARE_PIXELS), (0, [1, 2, 3, 4])])
    for split in ("train", "val"):
        written("yolo", tmp_path / split, [own], split)
    assert (
        tmp_path / "train/labels/train/sub/a.txt"
    ).read_text() == "1 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6\n0 0.1 0.3 0.1 0.2\n"
    assert (tmp_path / "train/images/train/sub/a.png").is_file()
    expected = {"train": "images/train", "names": {0: "cell", 1: CATEGORIES[1].name}}
    assert yaml.safe_load((tmp_path / "train/data.yaml").read_text()) == expected


def test_what_it_cannot_hold_is_counted(tmp_path) -> None:
    ring = np.array([[0.5, 0.5], [8, 0.5], [8, 8], [0.5, 8]])
    own = record(tmp_path, "a.png", (10, 10), [(0, [ring]), (0, [ring + 1]), (1, [ring])], crowds={2})
    hole = np.array([[2.25, 2], [4, 4], [6, 2]])
    own = own._replace(
        boxes=own.boxes + np.array([0, 0, 0, 1]),
        scores=np.array([0.5, 0.5, np.nan]),
        keypoints=np.array([[[1, 1, 2]], [[0, 0, 0]], [[1, 1, 2]]], np.float32),
        shapes=[[Shape(ring, [hole])], [], []],
    )
    lost = written("yolo", tmp_path / "out", [own]).lost
    assert dict(lost) == {
        "crowd, left out": 1,
        "score": 2,
        "keypoints of an object": 2,
        "mask of several outlines, joined to one by lines of no width": 1,
        "box that differs from its mask's": 2,
    }
    masks = contents(read_back(tmp_path / "out"))["a.png"][2]
    expected = draw_bitmap([ring], (10, 10)) ^ draw_bitmap([hole], (10, 10))
    np.testing.assert_array_equal(masks[0], expected)  # the outlines of the prediction, not its bitmap


def test_images_are_copied_linked_or_left(tmp_path) -> None:
    records = [record(tmp_path / "in", name, (10, 20), [(0, SQUARE_PIXELS)]) for name in ("a.png", "b.png")]
    records[1] = record(tmp_path / "in", "b.png", (10, 20), [])
    for images in ("copy", "link"):
        written("yolo", tmp_path / images, records, images=images)
        assert (tmp_path / images / "images/a.png").is_symlink() == (images == "link")
        assert_same(read_back(tmp_path / images), records)
    written("yolo", tmp_path / "refer", records, images="refer")
    assert not (tmp_path / "refer/images").exists()
    with pytest.raises(DataError, match="--images"):
        read_back(tmp_path / "refer")
    assert_same(read_back(tmp_path / "refer", images_dir=tmp_path / "in"), records)


def test_two_images_of_one_name_stay_two(tmp_path) -> None:
    one = record(tmp_path / "x", "a.png", (10, 20), [(0, SQUARE_PIXELS)])
    two = record(tmp_path / "y", "a.bmp", (10, 20), [])
    out = [one, two, one._replace(name="../../a.png"), one._replace(name="images/a.png")]
    written("yolo", tmp_path / "out", out)
    names = {path.name for path in (tmp_path / "out/images").iterdir()}
    assert names == {"a.png", "a-2.bmp", "a-3.png", "a-4.png"}
    assert len(read_back(tmp_path / "out")) == 4


@settings(max_examples=60)
@given(st.text(alphabet="0123456789. -+eE\tnaif\n\r,xé\0", max_size=60), st.binary(max_size=80))
def test_any_label_file_is_read_or_refused(text, noise) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = ultralytics(Path(name))
        (folder / "labels/train/a.txt").write_bytes(text.encode())
        (folder / "labels/train/empty.txt").write_bytes(noise)
        data = read_back(folder, "train")
        assert data.report.annotations_in_file == len(data.object_rows()) + data.report.count("annotation")


@settings(max_examples=60)
@given(
    st.text(max_size=60)
    | st.sampled_from(["names: [a]\ntrain: ", "train: images\nnames: "]).flatmap(
        lambda head: st.text(max_size=30).map(lambda tail: head + tail)
    )
)
def test_any_yaml_is_read_or_refused(text) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "data.yaml", text.encode(errors="replace").decode())
        try:
            for source in find(name).values():
                read_dataset(source)
        except DataError:
            pass
