"""CVAT XML 1.1: files as CVAT exports tasks and projects, and what is written and read again."""

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
from maskrcnn.errors import DataError
from tests.data.formats.annotated import CATEGORIES, assert_same, contents, read_back, record, scenes, written

SIZE = (10, 20)
SQUARE = np.zeros(SIZE, bool)
SQUARE[2:6, 5:15] = True
POLYGON = (
    '<polygon label="star" source="manual" occluded="0" points="5.00,2.00;15.00,2.00;15.00,6.00;5.00,6.00" '
    'z_order="0"></polygon>'
)
META = """<meta><{kind}><id>4</id><name>set</name><labels>
  <label><name>star</name><color>#ff0000</color><type>any</type><attributes>
    <attribute><name>size</name><mutable>False</mutable><input_type>select</input_type><values>a\nb</values></attribute>
  </attributes></label>
  <label><name>disc</name><type>mask</type><attributes></attributes></label>
  <label><name>road</name><type>polyline</type></label>
  <label><name>body</name><type>skeleton</type><svg>&lt;line/&gt;</svg></label>
  <label><name>1</name><type>points</type><parent>body</parent></label>
</labels></{kind}><dumped>2024-01-01</dumped></meta>"""


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0])).save(path)


def element(name: str, *shapes: str, subset: str = "", id: int = 0) -> str:
    subset = f' subset="{subset}" task_id="9"' if subset else ""
    return f'<image id="{id}" name="{name}"{subset} width="20" height="10">{"".join(shapes)}</image>'


def export(path: Path, *elements: str, kind: str = "task", meta: str = META) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(elements)
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta.format(kind=kind)}'
    path.write_text(f"{head}{body}</annotations>", encoding="utf-8")
    return path


def one(tmp_path: Path, *shapes: str):
    """An image with these shapes, read: the record and the report."""
    image(tmp_path / "images/a.jpg")
    export(tmp_path / "annotations.xml", element("a.jpg", *shapes))
    data = read_back(tmp_path)
    return data.record(0, exact=True), data.report


def test_a_task(tmp_path) -> None:
    mask = (
        '<mask label="disc" source="manual" occluded="0" rle="1, 2, 3, 1, 1" left="3" top="1" width="4" height="2" '
        'z_order="0"></mask>'
    )
    box = (
        '<box label="disc" source="auto" occluded="1" xtl="1.50" ytl="2.00" xbr="4.00" ybr="8.25" z_order="1">'
        '<attribute name="size">a</attribute></box>'
    )
    for name in ("a.jpg", "sub/b.jpg", "c.jpg", "unlisted.jpg"):
        image(tmp_path / "images" / name)
    elements = element("sub/b.jpg"), element("a.jpg", POLYGON, mask, box, id=1), element("c.jpg", POLYGON, id=2)
    export(tmp_path / "annotations.xml", *elements)
    splits = find(tmp_path, ReadOptions())
    assert {split: source.format for split, source in splits.items()} == {"all": "cvat"}
    data = read_dataset(splits["all"])
    assert [(category.id, category.name) for category in data.categories] == [(1, "star"), (2, "disc")]
    assert [data.name(i) for i in range(len(data))] == ["a.jpg", "c.jpg", "sub/b.jpg"]
    assert data.image_ids.tolist() == [1, 2, 3]
    own = data.record(0)
    assert own.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[0], SIZE), SQUARE)
    rows = np.zeros(SIZE, bool)
    rows[1:3, 3:7] = [[0, 1, 1, 0], [0, 0, 1, 0]]  # 1 without, 2 with, 3 without, 1 with, 1 without, row by row
    np.testing.assert_array_equal(draw_bitmap(own.segmentations[1], SIZE), rows)
    assert own.segmentations[2] is None
    assert own.boxes[2].tolist() == [1.5, 2, 4, 8.25]
    assert [(p.kind, p.reason, p.detail) for p in data.report.problems] == [
        ("image", "image without annotations", "unlisted.jpg")
    ]
    assert len(read_back(tmp_path, unlabelled="background")) == 4
    assert len(read_back(tmp_path, unlabelled="skip")) == 2
    assert len(read_back(tmp_path / "annotations.xml")) == 3


def test_the_mask_of_cvats_documentation(tmp_path) -> None:
    """A disc, whose runs go on from one row to the next."""
    runs = "3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3"
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    shape = f'<mask label="disc" rle="{runs}" left="7" top="8" width="13" height="15"></mask>'
    text = f'<annotations><image id="0" name="a.png" width="40" height="30">{shape}</image></annotations>'
    (tmp_path / "x.xml").write_text(text)
    own = read_back(tmp_path).record(0)
    bits = draw_bitmap(own.segmentations[0], (30, 40))
    assert own.boxes.tolist() == [[7, 8, 20, 23]]
    assert bits[8, 7:20].tolist() == [False] * 3 + [True] * 5 + [False] * 5
    assert bits.sum() == 5 + 7 + 9 + 11 + 11 + 12 + 12 + 26 + 12 + 12 + 11 + 9 + 7 + 5


def test_a_project_with_subsets(tmp_path) -> None:
    for subset in ("Train", "Validation", "Mine"):
        image(tmp_path / "images" / subset / "a.jpg")
    image(tmp_path / "images/Train/more.jpg")
    export(
        tmp_path / "annotations.xml",
        *(element("a.jpg", *[POLYGON] * n, subset=s) for n, s in enumerate(("Mine", "Train", "Validation"))),
        kind="project",
    )
    splits = find(tmp_path)
    assert set(splits) == {"train", "val", "Mine"}
    for n, split in enumerate(("Mine", "train", "val")):
        data = read_dataset(splits[split])
        assert len(data) == 1
        assert len(data.object_rows()) == n
        assert data.path(0).parent.name == {"train": "Train", "val": "Validation"}.get(split, split)
    assert len(read_dataset(splits["train"]).report.problems) == 1
    image(tmp_path / "far" / "Train" / "a.jpg")
    assert read_back(tmp_path, "train", images_dir=tmp_path / "far").path(0).parent.name == "Train"
    image(tmp_path / "flat" / "a.jpg")
    assert len(read_back(tmp_path, "train", images_dir=tmp_path / "flat")) == 1


def test_files_of_splits(tmp_path) -> None:
    image(tmp_path / "a.jpg")
    for name in ("train", "validation"):
        export(tmp_path / f"{name}.xml", element("a.jpg", POLYGON))
    splits = find(tmp_path)
    assert set(splits) == {"train", "val"}
    assert len(read_dataset(splits["val"]).object_rows()) == 1
    export(tmp_path / "third.xml", element("a.jpg", POLYGON))
    with pytest.raises(DataError, match=r"third\.xml, train\.xml, validation\.xml are all of CVAT; name one"):
        find(tmp_path)


def test_ellipses_and_turned_boxes(tmp_path) -> None:
    own, report = one(
        tmp_path,
        '<ellipse label="disc" cx="10" cy="5" rx="6" ry="3"></ellipse>',
        '<box label="disc" xtl="8" ytl="3" xbr="16" ybr="7" rotation="90.00"></box>',
        '<box label="disc" xtl="8" ytl="3" xbr="16" ybr="7" rotation="30"></box>',
        '<ellipse label="disc" cx="10" cy="5" rx="4" ry="1" rotation="90"></ellipse>',
    )
    np.testing.assert_allclose(own.boxes[0], [4, 2, 16, 8], atol=0.06)
    assert own.areas[0] == pytest.approx(np.pi * 18, rel=0.02)
    np.testing.assert_allclose(own.boxes[1], [10, 1, 14, 9], atol=1e-5)
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
    corner = np.array([12 + 4 * cosine - 2 * sine, 5 + 4 * sine + 2 * cosine])
    assert np.abs(own.segmentations[2][0] - corner).sum(axis=1).min() < 1e-5  # clockwise on the screen
    np.testing.assert_allclose(own.boxes[3], [9, 1, 11, 9], atol=0.06)
    assert not report.problems


def test_groups_are_the_parts_of_one_object(tmp_path) -> None:
    left = '<polygon label="star" group_id="3" points="1,1;4,1;4,4;1,4"></polygon>'
    right = '<polygon label="star" group_id="3" points="6,1;9,1;9,4;6,4"></polygon>'
    mask = '<mask label="star" group_id="4" rle="0,4" left="0" top="6" width="2" height="2"></mask>'
    own, report = one(
        tmp_path,
        left,
        right,
        left.replace("star", "disc"),
        mask,
        right.replace('"3"', '"4"'),
        '<box label="star" group_id="4" xtl="1" ytl="1" xbr="2" ybr="2"></box>',
        left.replace('"3"', '"0"'),
    )
    first, second = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    first[1:4, 1:4] = second[1:4, 6:9] = True
    below = np.zeros(SIZE, bool)
    below[6:8, :2] = True
    expected = [None, first, first | second, first, below | second]
    for segmentation, bits in zip(own.segmentations, expected, strict=True):
        if bits is None:
            assert segmentation is None
        else:
            np.testing.assert_array_equal(draw_bitmap(segmentation, SIZE), bits)
    assert [p.reason for p in report.problems] == ["shapes of one group and label, joined to one object"] * 2


def test_what_is_no_object_is_reported(tmp_path) -> None:
    own, report = one(
        tmp_path,
        POLYGON,
        '<polyline label="road" points="1,1;2,2"></polyline>',
        '<points label="star" points="1,1;2,2"></points>',
        '<skeleton label="body"><points label="1" points="1,1"></points></skeleton>',
        '<cuboid label="star" xtl1="1"></cuboid>',
        '<tag label="good"></tag>',
        '<box label="star" xtl="1" ytl="1" xbr="2"></box>',
    )
    assert len(own.labels) == 1
    assert [p.reason for p in report.problems] == [
        *(f"{kind}, which encloses no area" for kind in ("polyline", "points", "skeleton", "cuboid")),
        "tag of a whole image, ignored",
        "neither a segmentation nor a box",
    ]
    assert report.annotations_in_file == 6


@pytest.mark.parametrize(
    "shape",
    [
        '<polygon label="star" points="1,1;2,2"></polygon>',
        '<polygon label="star" points="1,1;2,2;3"></polygon>',
        '<polygon label="star" points="1,1;2,2;3,x"></polygon>',
        '<polygon label="star" points="1,1;2,2;3,1e300"></polygon>',
        '<polygon label="star"></polygon>',
        '<mask label="star" rle="0,4" left="0" top="0" width="2"></mask>',
        '<mask label="star" rle="0,5" left="0" top="0" width="2" height="2"></mask>',
        '<mask label="star" rle="-1,5" left="0" top="0" width="2" height="2"></mask>',
        '<mask label="star" rle="0,4" left="19" top="0" width="2" height="2"></mask>',
        '<mask label="star" rle="0,4" left="-1" top="0" width="2" height="2"></mask>',
        '<mask label="star" rle="0,10000000000" left="0" top="0" width="100000" height="100000"></mask>',
        '<mask label="star" rle="" left="0" top="0" width="2" height="2"></mask>',
        '<ellipse label="star" cx="1" cy="1" rx="inf" ry="1"></ellipse>',
        '<box label="star" xtl="1" ytl="1" xbr="5" ybr="5" rotation="x"></box>',
        '<box label="star" xtl="1" ytl="1" xbr="nan" ybr="5" rotation="5"></box>',
    ],
)
def test_a_bad_shape_is_counted_and_the_others_are_kept(tmp_path, shape) -> None:
    own, report = one(tmp_path, shape, POLYGON)
    assert len(own.labels) == 1
    assert report.annotations_in_file == 2
    (problem,) = report.problems
    assert "that cannot be read" in problem.reason


def test_labels_that_the_file_does_not_declare_come_last(tmp_path) -> None:
    own, _ = one(tmp_path, POLYGON.replace("star", "zebra"), POLYGON.replace("star", "ant"), POLYGON)
    assert own.labels.tolist() == [3, 2, 0]


def test_an_image_that_is_listed_twice_has_all_its_shapes(tmp_path) -> None:
    image(tmp_path / "images/a.jpg")
    export(tmp_path / "annotations.xml", element("a.jpg", POLYGON), element("a.jpg", POLYGON, id=5))
    data = read_back(tmp_path)
    assert len(data) == 1
    assert len(data.object_rows()) == 2
    assert data.report.problems[0].reason == "image that is listed twice, its shapes joined"


def test_tags_alone_are_named(tmp_path) -> None:
    image(tmp_path / "images/a.jpg")
    tag = '<tag label="disc" source="manual"></tag>'
    path = export(tmp_path / "annotations.xml", element("a.jpg", tag, tag), meta="")
    with pytest.raises(DataError, match=r"none of its 1 images has an object; .*tags \(of whole images\).* are none"):
        read_dataset(path)


def test_tracks_are_refused_with_the_way_out(tmp_path) -> None:
    track = '<track id="0" label="star" source="manual"><polygon frame="0" points="1,1;2,1;2,2"/></track>'
    export(tmp_path / "annotations.xml", track, track)
    with pytest.raises(
        DataError, match=r"2 tracks of 'CVAT for video 1\.1'; export the task as 'CVAT for images 1\.1'"
    ):
        read_back(tmp_path)


def test_other_xml_is_passed_over(tmp_path) -> None:
    for name, text in (
        ("pom.xml", "<project><annotations/></project>"),
        ("annotations.xml", "<annotations><file><package/></file></annotations>"),
        ("voc.xml", "<annotation><object/></annotation>"),
    ):
        (tmp_path / name).write_text(text)
    from maskrcnn.data.formats import cvat

    assert cvat.find(tmp_path, ReadOptions()) == {}


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>', "document type or entities"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">', "document type or entities"),
    ],
)
def test_strange_xml_is_one_sentence(tmp_path, before, reason) -> None:
    path = export(tmp_path / "annotations.xml", element("a.jpg", POLYGON))
    text = path.read_text()
    path.write_text(text.replace("<annotations>", f"{before}<annotations>", 1))
    with pytest.raises(DataError, match=rf"annotations\.xml: .*{reason}"):
        read_back(tmp_path)
    path.write_text(text[:-30])
    with pytest.raises(DataError, match=r"annotations\.xml: not valid XML, perhaps truncated"):
        read_back(tmp_path)


def test_names_do_not_leave_the_folder(tmp_path) -> None:
    image(tmp_path / "secret/a.jpg")
    for subset in ("../secret", "..", "a/b"):
        image(tmp_path / "data/images/good.jpg")
        elements = element("a.jpg", POLYGON, subset=subset), element("../../secret/a.jpg", POLYGON, subset=subset)
        export(tmp_path / "data/annotations.xml", *elements, element("good.jpg", POLYGON, subset=subset))
        data = read_back(tmp_path / "data")
        assert [data.path(i) for i in range(len(data))] == [tmp_path / "data/images/good.jpg"]


@settings(max_examples=25)
@given(scenes())
def test_write_read_write(drawn) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = [
            record(folder / "in", f"{i}.png", size, own, crowds=crowds) for i, (size, own, crowds) in enumerate(drawn)
        ]
        out = written("cvat", folder / "one", records)
        data = read_back(folder / "one")
        assert_same(data, records)
        assert not data.report.problems
        assert not out.lost
        again = [data.record(i, exact=True) for i in range(len(data))]
        written("cvat", folder / "two", again)
        assert (folder / "one/annotations.xml").read_text() == (folder / "two/annotations.xml").read_text()


def test_what_is_written_is_cvats_layout(tmp_path) -> None:
    ring = np.zeros(SIZE, bool)
    ring[1:4, 1:4] = True
    ring[2, 2] = False
    own = record(tmp_path / "in", "sub/a.png", SIZE, [(1, SQUARE), (0, ring), (0, [1, 2.25, 3, 4])], crowds={1})
    written("cvat", tmp_path / "out", [own], "train")
    root = ElementTree.parse(tmp_path / "out/annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == [category.name for category in CATEGORIES]
    (child,) = root.iter("image")
    assert child.attrib == {"id": "0", "name": "sub/a.png", "subset": "Train", "width": "20", "height": "10"}
    polygon, mask, box = child
    assert polygon.get("points") == "5,2;15,2;15,6;5,6"
    assert {key: mask.get(key) for key in ("rle", "left", "top", "width", "height")} == {
        "rle": "0, 4, 1, 4", "left": "1", "top": "1", "width": "3", "height": "3",
    }  # fmt: skip
    assert [attribute.text for attribute in mask] == ["true"]
    assert (box.get("xtl"), box.get("ytl"), box.get("xbr"), box.get("ybr")) == ("1", "2.25", "3", "4")
    assert (tmp_path / "out/images/Train/sub/a.png").is_file()
    assert_same(read_back(tmp_path / "out", "train"), [own])


def test_what_it_cannot_hold_is_counted(tmp_path) -> None:
    own = record(tmp_path, "a.png", SIZE, [(0, SQUARE), (0, [1, 2, 3, 4])])
    own = own._replace(
        boxes=own.boxes + np.array([0, 0, 0, 1]),
        scores=np.array([0.5, np.nan]),
        keypoints=np.array([[[1, 1, 2]], [[0, 0, 0]]], np.float32),
    )
    lost = written("cvat", tmp_path / "out", [own]).lost
    assert dict(lost) == {"score": 1, "keypoints of an object": 1, "box that differs from its mask's": 1}


@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-8, 48), st.integers(-8, 48)), min_size=3, max_size=6, unique=True),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_keep_their_pixels(polygons) -> None:
    rings = [np.array(polygon, dtype=float) / 4 for polygon in polygons]
    if not draw_bitmap(rings, (10, 10)).any():
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written("cvat", folder / "out", [record(folder, "a.png", (10, 10), [(0, rings)])])
        (mask,) = contents(read_back(folder / "out"))["a.png"][2]
        np.testing.assert_array_equal(mask, draw_bitmap(rings, (10, 10)))


def test_images_may_stay_where_they_are(tmp_path) -> None:
    own = record(tmp_path / "in", "a.png", SIZE, [(0, SQUARE)])
    written("cvat", tmp_path / "out", [own], images="refer")
    assert_same(read_back(tmp_path / "out", images_dir=tmp_path / "in"), [own])


@settings(max_examples=40)
@given(st.data())
def test_any_damage_is_read_or_refused(data) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image(folder / "images/a.jpg")
        mask = '<mask label="disc" rle="1, 2, 3, 1, 1" left="3" top="1" width="4" height="2"></mask>'
        path = export(folder / "annotations.xml", element("a.jpg", POLYGON, mask))
        content = bytearray(path.read_bytes())
        first = content.index(b"<image")
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(first, len(content) - 1))] = data.draw(st.integers(32, 126))
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            read_back(folder)
