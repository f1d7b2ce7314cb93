"""Pascal VOC: trees as the devkit, CVAT, Datumaro, labelImg and Roboflow lay them out, and what is written and read."""

import contextlib
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import ReadOptions, find, read_dataset
from maskrcnn.data.formats.voc_masks import PALETTE
from maskrcnn.errors import DataError
from tests.data.formats.annotated import CATEGORIES, apart, assert_same, contents, read_back, record, written

SIZE = (10, 20)
NUMBERS = np.zeros(SIZE, np.uint8)
NUMBERS[2:6, 5:15] = 1
NUMBERS[7:9, 1:4] = 2
NUMBERS[1, 5:15] = 255  # the border
CLASS_VALUES = np.array([0, 8, 15, *[0] * 252, 255], np.uint8)[NUMBERS]  # cat and person
OFFICIAL = "<source><database>The VOC2007 Database</database></source>"
LABELIMG = "<path>/data/a.jpg</path><source><database>Unknown</database></source>"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0])).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def entry(name: str, box: str, extra: str = "<difficult>0</difficult>") -> str:
    x1, y1, x2, y2 = box.split()
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><pose>Left</pose>{extra}<bndbox>{corners}</bndbox></object>"


def xml(*entries: str, head: str = LABELIMG, name: str = "a.jpg") -> str:
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    return f"<annotation>\n<folder>x</folder><filename>{name}</filename>{head}{size}{''.join(entries)}\n</annotation>\n"


def png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette([value for colour in PALETTE for value in colour])
    image.save(path)


def devkit(folder: Path) -> Path:
    """VOC's own tree: corners are pixels, counted from 1, the last included."""
    for name in ("a", "b", "c"):
        image(folder / "JPEGImages" / f"{name}.jpg")
    cat, person = entry("cat", "6 3 15 6"), entry("person", "2 8 4 9", "<difficult>1</difficult>")
    write(folder / "Annotations/a.xml", '<?xml version="1.0"?>\n' + xml(cat, person, head=OFFICIAL))
    write(folder / "Annotations/b.xml", xml(cat, head=OFFICIAL, name="b.jpg"))
    png(folder / "SegmentationObject/a.png", NUMBERS)
    png(folder / "SegmentationClass/a.png", CLASS_VALUES)
    for kind, lists in (
        ("Segmentation", {"train": "a", "val": "c"}),
        ("Main", {"train": "a\nb", "val": "c", "cat_train": "a  1"}),
    ):
        for split, names in lists.items():
            write(folder / "ImageSets" / kind / f"{split}.txt", f"{names}\n")
    return folder


def test_voc_itself(tmp_path) -> None:
    devkit(tmp_path / "VOCdevkit" / "VOC2012")
    assert set(find(tmp_path)) == {"train", "val"}
    data = read_back(tmp_path, "train")
    assert [category.name for category in data.categories] == ["cat", "person"]
    assert data.image_ids.tolist() == [1]
    own = data.record(0)
    assert own.boxes.tolist() == [[5, 2, 15, 6], [1, 7, 4, 9]]
    assert own.labels.tolist() == [0, 1]
    assert own.ignore.tolist() == [False, True]
    for number, segmentation in enumerate(own.segmentations, start=1):
        np.testing.assert_array_equal(draw_bitmap(segmentation, SIZE), NUMBERS == number)
    assert not data.report.problems


def test_the_palette_is_vocs() -> None:
    assert [PALETTE[i] for i in (0, 1, 2, 4, 8, 20, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128), (64, 0, 0), (0, 64, 128), (224, 224, 192),
    ]  # fmt: skip


@pytest.mark.parametrize("with_xml", [True, False])
def test_colours_and_labelmap_as_cvat_and_datumaro_write_them(tmp_path, with_xml) -> None:
    image(tmp_path / "JPEGImages/sub/a.jpg")
    colours = np.array([(0, 0, 0), (12, 200, 7), (250, 50, 83)], np.uint8)
    for folder, palette in (("SegmentationObject", np.array(PALETTE, np.uint8)), ("SegmentationClass", colours)):
        (tmp_path / folder / "sub").mkdir(parents=True)
        Image.fromarray(palette[np.where(NUMBERS == 255, 0, NUMBERS)]).save(tmp_path / folder / "sub/a.png")
    write(
        tmp_path / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nzebra:12,200,7::\nant:250,50,83::\nbee:1,1,1::\n",
    )
    write(tmp_path / "ImageSets/Segmentation/default.txt", "sub/a\n")
    if with_xml:
        write(tmp_path / "Annotations/sub/a.xml", xml(entry("zebra", "5.0 2.0 15.0 6.0"), entry("ant", "1 7 4 9")))
    data = read_back(tmp_path, "all")
    assert [category.name for category in data.categories] == ["ant", "bee", "zebra"]
    own = data.record(0)
    assert [data.categories[label].name for label in own.labels] == ["zebra", "ant"]
    assert own.boxes.tolist() == [[5, 2, 15, 6], [1, 7, 4, 9]]
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[0], SIZE), NUMBERS == 1)
    assert not data.report.problems


def test_masks_find_their_object_if_the_order_differs(tmp_path) -> None:
    folder = devkit(tmp_path)
    cat, person = entry("cat", "6 3 15 6"), entry("person", "2 8 4 9")
    write(folder / "Annotations/a.xml", xml(person, entry("dog", "1 1 20 10"), cat, head=OFFICIAL))
    own = read_back(folder, "train").record(0)
    found = [None if s is None else draw_bitmap(s, SIZE) for s in own.segmentations]
    np.testing.assert_array_equal(found[0], NUMBERS == 2)
    assert found[1] is None
    np.testing.assert_array_equal(found[2], NUMBERS == 1)
    write(folder / "Annotations/a.xml", xml(person, head=OFFICIAL))  # the cat is in the PNG only
    data = read_back(folder, "train")
    assert len(data.object_rows()) == 1
    assert [(p.reason, p.detail) for p in data.report.problems] == [("annotation of an unknown category", "'cat'")]


def test_labelimg_beside_the_images(tmp_path) -> None:
    image(tmp_path / "a.jpg")
    image(tmp_path / "b.jpg")
    image(tmp_path / "c.jpg")
    write(tmp_path / "a.xml", xml(entry("star", "0 2 15 6"), entry("disc", "1 7 4 9", "<difficult>1</difficult>")))
    write(tmp_path / "b.xml", xml(name="old name.jpg"))
    data = read_back(tmp_path, "all")
    assert [category.name for category in data.categories] == ["disc", "star"]
    assert [data.name(i) for i in range(len(data))] == ["a.jpg", "b.jpg"]
    assert data.record(0).boxes.tolist() == [[0, 2, 15, 6], [1, 7, 4, 9]]
    assert data.record(0).ignore.tolist() == [False, True]
    assert [(p.kind, p.reason, p.detail) for p in data.report.problems] == [
        ("image", "image without annotations", "c.jpg")
    ]
    assert data.report.images_in_file == 3
    assert len(read_back(tmp_path, "all", unlabelled="background")) == 3
    assert len(read_back(tmp_path / "a.xml")) == 1


def test_other_xml_beside_the_images_is_passed_over(tmp_path) -> None:
    image(tmp_path / "a.jpg")
    write(tmp_path / "a.XML", xml(entry("star", "0 2 15 6")))
    write(tmp_path / "b.xml", xml(name="b.jpg"))
    write(tmp_path / "pom.xml", "<project/>")
    data = read_back(tmp_path)
    assert len(data.object_rows()) == 1
    assert [p.kind for p in data.report.problems] == ["repair", "image"]
    assert data.report.problems[0].detail == "pom.xml"


def test_roboflow_with_polygons(tmp_path) -> None:
    corners = [(5, 2), (15, 2), (15, 6), (5, 6), (5, 2)]
    points = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(corners, start=1))
    for split in ("train", "valid"):
        image(tmp_path / split / "a.jpg")
        write(tmp_path / split / "a.xml", xml(entry("star", "5 2 15 6", f"<polygon>{points}</polygon>")))
    splits = find(tmp_path, ReadOptions())
    assert set(splits) == {"train", "val"}
    own = read_dataset(splits["val"]).record(0)
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[0], SIZE), NUMBERS == 1)


def test_polygons_of_labelmes_site(tmp_path) -> None:
    image(tmp_path / "Images/a.jpg")
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in [(5, 2), (15, 2), (15, 6), (5, 6)])
    gone = "<object><name>x</name><deleted>1</deleted></object>"
    body = f"<object><name>star</name><deleted>0</deleted><polygon>{points}</polygon></object>"
    head = "<filename>a.jpg</filename><imagesize><nrows>10</nrows><ncols>20</ncols></imagesize>"
    write(tmp_path / "Annotations/a.xml", f"<annotation>{head}{gone}{body}</annotation>")
    own = read_back(tmp_path).record(0)
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[0], SIZE), NUMBERS == 1)


def test_two_folders(tmp_path) -> None:
    """annotations/ and images/, as on Kaggle; sizes of zero are taken from the file."""
    image(tmp_path / "images/a.png")
    write(tmp_path / "annotations/a.xml", xml(entry("star", "5 2 15 6")).replace(">10</height>", ">0</height>"))
    data = read_back(tmp_path)
    assert data.record(0).size == SIZE
    assert data.name(0) == "a.png"
    image(tmp_path / "elsewhere/deep/a.png")
    assert read_back(tmp_path, images_dir=tmp_path / "elsewhere").path(0) == tmp_path / "elsewhere/deep/a.png"


def test_classes_of_pixels_alone_are_no_objects(tmp_path) -> None:
    image(tmp_path / "JPEGImages/a.jpg")
    png(tmp_path / "SegmentationClass/a.png", CLASS_VALUES)
    with pytest.raises(DataError, match="neither SegmentationObject nor Annotations"):
        find(tmp_path)


def test_unlabelled_images_of_a_list(tmp_path) -> None:
    folder = devkit(tmp_path)
    write(folder / "ImageSets/Segmentation/train.txt", 'a.jpg\nc 1\n"gone"\n')
    data = read_back(folder, "train")
    reasons = [(p.reason, p.detail) for p in data.report.problems]
    assert reasons == [("image without annotations", "c.jpg"), ("image without annotations", "gone.jpg")]
    data = read_back(folder, "train", unlabelled="background")
    assert [data.name(i) for i in range(len(data))] == ["a.jpg", "c.jpg"]
    assert [p.reason for p in data.report.problems] == ["missing image file"]


def test_a_test_set_whose_objects_are_not_told_has_the_classes_of_the_others(tmp_path) -> None:
    folder = devkit(tmp_path)
    for kind in ("Main", "Segmentation"):
        write(folder / f"ImageSets/{kind}/test.txt", "d\n")
    image(folder / "JPEGImages/d.jpg")
    for path in (folder / "SegmentationObject", folder / "SegmentationClass"):
        (path / "a.png").unlink()
    test = read_dataset(find(folder)["test"])
    assert len(test) == 0
    assert [problem.reason for problem in test.report.problems] == ["image without annotations"]
    assert [category.name for category in test.categories] == ["cat", "person"]


def test_no_object_at_all_is_named(tmp_path) -> None:
    image(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", xml())
    with pytest.raises(DataError, match="none of its 1 images has an object with a class"):
        read_dataset(tmp_path)


def test_strange_lines_of_a_list_name_no_image(tmp_path) -> None:
    folder = devkit(tmp_path)
    write(folder / "ImageSets/Segmentation/train.txt", 'a\n.\n \n""\n')
    data = read_back(folder, "train")
    assert [data.name(i) for i in range(len(data))] == ["a.jpg"]


def test_masks_that_cannot_be_used_leave_the_boxes(tmp_path) -> None:
    folder = devkit(tmp_path)
    for content, reason in (
        (b"no png", "masks that cannot be read"),
        ((folder / "SegmentationObject/a.png").read_bytes()[:60], "masks that cannot be read"),
        (None, "masks of another size than their image"),
    ):
        if content is None:
            png(folder / "SegmentationObject/a.png", NUMBERS.T.copy())
        else:
            (folder / "SegmentationObject/a.png").write_bytes(content)
        data = read_back(folder, "train")
        assert data.record(0).segmentations == [None, None]
        assert [p.reason for p in data.report.problems] == [reason]


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB + xml(entry("&b;", "1 1 2 2")), "document type or entities"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + xml(entry("&x;", "1 1 2 2")),
            "document type or entities",
        ),
        ("<!DOCTYPE annotation>" + xml(), "document type or entities"),
        (xml()[:-20], "not valid XML, perhaps truncated"),
        ("<?xml version='1.0' encoding='utf-64'?>" + xml(), "not valid XML|encoding"),
        ("<annotation>&x;</annotation>", "not valid XML|entities"),
    ],
)
def test_strange_xml_is_one_sentence(tmp_path, text, reason) -> None:
    folder = devkit(tmp_path)
    write(folder / "Annotations/a.xml", text)
    with pytest.raises(DataError, match=rf"a\.xml: .*({reason})") as caught:
        read_back(folder, "train")
    assert "\n" not in str(caught.value)
    assert "root:" not in str(caught.value)


def test_names_do_not_leave_the_folder(tmp_path) -> None:
    image(tmp_path / "secret.jpg")
    folder = tmp_path / "data"
    image(folder / "JPEGImages/b.jpg")
    write(folder / "Annotations/a.xml", xml(entry("star", "5 2 15 6"), name="../../secret.jpg"))
    write(folder / "Annotations/b.xml", xml(entry("star", "5 2 15 6"), name="../../secret.jpg"))
    data = read_back(folder)
    assert [data.path(i) for i in range(len(data))] == [folder / "JPEGImages/b.jpg"]
    assert [p.reason for p in data.report.problems] == ["missing image file"]
    write(folder / "ImageSets/Main/train.txt", "../../secret\n")
    with pytest.raises(DataError, match="which leaves the folder"):
        read_back(folder)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry("star", "5 2 x 6"), "neither a segmentation nor a box"),
        (entry("star", "15 2 5 6"), "negative width or height"),
        (entry("star", "nan 2 5 6"), "invalid box"),
        (entry("star", "30 2 50 6"), "outside its image"),
        ("<object><bndbox/></object>", "unknown category|neither"),
    ],
)
def test_a_bad_object_is_counted_and_the_others_are_kept(tmp_path, bad, reason) -> None:
    image(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", xml(entry("star", "5 2 15 6"), bad))
    data = read_back(tmp_path)
    assert len(data.object_rows()) == 1
    (problem,) = data.report.problems
    assert any(part in problem.reason for part in reason.split("|"))


@settings(max_examples=25)
@given(apart())
def test_write_read_write(drawn) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = [
            record(folder / "in", f"{i}.png", size, own, crowds=crowds) for i, (size, own, crowds) in enumerate(drawn)
        ]
        out = written("voc", folder / "one", records)
        if not any(len(one.labels) for one in records):
            return  # a data set without classes
        assert not out.lost
        data = read_back(folder / "one")
        assert_same(data, records)
        assert not data.report.problems
        label_of = {category.name: label for label, category in enumerate(CATEGORIES)}
        labels = np.array([label_of[category.name] for category in data.categories])
        again = [data.record(i, exact=True) for i in range(len(data))]
        written("voc", folder / "two", [one._replace(labels=labels[one.labels]) for one in again])
        for path in sorted((folder / "one").rglob("*")):
            if path.suffix in (".png", ".txt"):
                assert path.read_bytes() == (folder / "two" / path.relative_to(folder / "one")).read_bytes()


def test_what_is_written_is_the_devkits_layout(tmp_path) -> None:
    one = record(tmp_path / "in", "sub/a.png", SIZE, [(1, NUMBERS == 1), (0, [1.5, 2, 3, 4])], crowds={1})
    two = record(tmp_path / "in", "b.png", SIZE, [])
    out = tmp_path / "out"
    writer = written("voc", out, [one], "train")
    assert not writer.lost
    written("voc", tmp_path / "both", [one, two])
    root = ElementTree.parse(out / "Annotations/sub/a.xml").getroot()
    assert [entry.findtext("name") for entry in root.iterfind("object")] == [CATEGORIES[1].name, "cell"]
    assert [entry.findtext("difficult") for entry in root.iterfind("object")] == ["0", "1"]
    assert [child.text for child in root.findall("object")[1].find("bndbox")] == ["1.5", "2", "3", "4"]
    assert (out / "ImageSets/Segmentation/train.txt").read_text() == "sub/a\n"
    with Image.open(out / "SegmentationClass/sub/a.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        np.testing.assert_array_equal(np.asarray(mask), np.where(NUMBERS == 1, 2, 0))
    lines = (out / "labelmap.txt").read_text().splitlines()
    assert lines[1:] == ["background:0,0,0::", "cell:128,0,0::", "a class: <with> &marks:0,128,0::"]
    with Image.open(tmp_path / "both/SegmentationObject/b.png") as mask:  # a list names no image without a PNG
        assert not np.asarray(mask).any()


def test_what_it_cannot_hold_is_counted(tmp_path) -> None:
    inner = np.zeros(SIZE, bool)
    inner[3:5, 6:9] = True
    one = record(tmp_path, "a.png", SIZE, [(0, inner), (1, NUMBERS == 1), (0, [1, 2, 3, 4])])
    one = one._replace(scores=np.array([0.9, 0.5, np.nan]), keypoints=np.array([[[1, 1, 2]]] * 3, np.float32))
    lost = written("voc", tmp_path / "out", [one]).lost
    assert dict(lost) == {"pixel of two objects": 6, "score": 2, "keypoints of an object": 3}
    masks = contents(read_back(tmp_path / "out"))["a.png"][2]
    np.testing.assert_array_equal(masks[0], inner)
    np.testing.assert_array_equal(masks[1], (NUMBERS == 1) & ~inner)
    many = record(tmp_path, "b.png", (1, 300), [(0, np.arange(300)[None] == i) for i in range(300)])
    lost = written("voc", tmp_path / "many", [many]).lost
    assert dict(lost) == {"mask of an object beyond the 254 that an image can have": 46}
    found = contents(read_back(tmp_path / "many"))["b.png"]
    assert sum(mask is not None for mask in found[2]) == 254
    assert len(found[0]) == 300


def test_images_may_stay_where_they_are(tmp_path) -> None:
    one = record(tmp_path / "in", "a.png", SIZE, [(0, NUMBERS == 1)])
    written("voc", tmp_path / "out", [one], images="refer")
    assert_same(read_back(tmp_path / "out", images_dir=tmp_path / "in"), [one])
    with pytest.raises(DataError, match="--images"):
        read_back(tmp_path / "out")


@settings(max_examples=30)
@given(st.data())
def test_any_damage_is_read_or_refused(data) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = devkit(Path(name))
        for path in (
            folder / "Annotations/a.xml",
            folder / "SegmentationObject/a.png",
            folder / "SegmentationClass/a.png",
        ):
            content = bytearray(path.read_bytes())
            for _ in range(data.draw(st.integers(0, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            path.write_bytes(content)
        with contextlib.suppress(DataError):
            read_back(folder, "train")
