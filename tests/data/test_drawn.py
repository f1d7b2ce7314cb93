"""The drawn data set is what it says it is: sizes, classes, covered objects, and annotations equal to what is seen."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data import drawn
from maskrcnn.data.drawn import (
    CLASSES,
    FIGURE,
    FLIP_PAIRS,
    KEYPOINTS,
    LARGEST,
    SIDE,
    SKELETON,
    SMALLEST,
    Shape,
    draw_dataset,
    draw_scene,
    shape_of,
)
from maskrcnn.data.formats import read_dataset

pycocotools_mask = pytest.importorskip("pycocotools.mask")

TRAIN, VAL = 40, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn")
    draw_dataset(out, train=TRAIN, val=VAL, seed=3)
    return out


def contents(folder, split):
    return json.loads((folder / f"{split}.json").read_text())


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_square_and_a_ring_hold_the_points_they_should() -> None:
    centres = np.arange(8) + 0.5
    square = np.array([[2.0, 1.0], [6.0, 1.0], [6.0, 5.0], [2.0, 5.0]])
    hole = np.array([[3.0, 2.0], [5.0, 2.0], [5.0, 4.0], [3.0, 4.0]])
    mask = Shape([square], [hole], None).inside(centres, centres)
    expected = np.zeros((8, 8), dtype=bool)
    expected[1:5, 2:6] = True
    expected[2:4, 3:5] = False
    assert (mask == expected).all()


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=CLASSES)
def test_a_shape_has_the_size_and_place_that_were_asked_for(label) -> None:
    shape = shape_of(label, (60.0, 40.0), 50.0, np.random.default_rng(0))
    x1, y1, x2, y2 = shape.box()
    assert max(x2 - x1, y2 - y1) == pytest.approx(50, abs=0.02)
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((60, 40), abs=0.02)
    assert (shape.keypoints is not None) == (label == FIGURE)


def test_a_figure_faces_the_viewer() -> None:
    keypoints = shape_of(FIGURE, (0.0, 0.0), 100.0, np.random.default_rng(1)).keypoints
    assert keypoints is not None
    at: dict[str, np.ndarray] = dict(zip(KEYPOINTS, keypoints, strict=True))  # type: ignore[arg-type]
    assert at["left_shoulder"][0] > at["right_shoulder"][0]
    assert at["head"][1] < at["left_hip"][1] < at["left_foot"][1]
    assert all(KEYPOINTS[i].replace("left", "right") == KEYPOINTS[j] for i, j in FLIP_PAIRS)
    assert {keypoint for bone in SKELETON for keypoint in bone} == set(KEYPOINTS)


def test_the_statistics_are_the_claimed_ones(folder) -> None:
    annotations = contents(folder, "train")["annotations"] + contents(folder, "val")["annotations"]
    longer = np.array([max(annotation["bbox"][2:]) for annotation in annotations])
    assert longer.min() >= SMALLEST
    assert longer.max() <= LARGEST
    assert (longer < 20).mean() > 0.03
    assert (longer > 70).mean() > 0.03
    assert min(np.bincount([a["category_id"] for a in annotations], minlength=7)[1:]) > len(annotations) / 12
    kinds = [isinstance(annotation["segmentation"], list) for annotation in annotations]
    assert 0.15 < np.mean(kinds) < 0.85
    counts = [type(a["segmentation"]["counts"]) for a, kind in zip(annotations, kinds, strict=True) if not kind]
    assert 0.2 < np.mean([kind is str for kind in counts]) < 0.8


def test_a_quarter_of_the_objects_is_covered_by_more_than_a_fifth() -> None:
    scenes = [drawn._arrange(np.random.default_rng([1, 0, i])) for i in range(500)]
    assert np.mean([thing.covered > 0.2 for scene in scenes for thing in scene]) >= 0.25


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_an_annotation_is_what_can_be_seen() -> None:
    seen = 0
    for seed in range(12):
        _, objects = draw_scene(np.random.default_rng(seed))
        for place, thing in enumerate(objects):
            in_front = [other.full for other in objects[place + 1 :]]
            visible = thing.full & ~np.any([np.zeros_like(thing.full), *in_front], axis=0)
            annotation = drawn._annotation(thing, 1, 1, keypoints=True)
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, list):
                polygons = [np.array(part).reshape(-1, 2) for part in segmentation]
                centres = np.arange(SIDE) + 0.5
                mask = Shape(polygons, [], None).inside(centres, centres)
                rle = pycocotools_mask.merge(pycocotools_mask.frPyObjects(segmentation, SIDE, SIDE))
                theirs = pycocotools_mask.decode(rle).astype(bool)  # rounds vertices to a fifth of a pixel
                assert (mask & theirs).sum() / (mask | theirs).sum() > 0.8
            else:
                if isinstance(segmentation["counts"], list):
                    segmentation = pycocotools_mask.frPyObjects(segmentation, SIDE, SIDE)
                mask = pycocotools_mask.decode(segmentation).astype(bool)
            assert (mask == visible).all()
            assert annotation["area"] == visible.sum()
            rows, columns = np.nonzero(visible)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            seen += 1
    assert seen > 40


def test_keypoints_say_whether_they_can_be_seen(folder) -> None:
    figures = [a for a in contents(folder, "val")["annotations"] if a["category_id"] == FIGURE + 1]
    triples = np.array([figure["keypoints"] for figure in figures]).reshape(len(figures), len(KEYPOINTS), 3)
    assert set(np.unique(triples[..., 2])) == {0, 1, 2}
    assert [figure["num_keypoints"] for figure in figures] == (triples[..., 2] > 0).sum(axis=1).tolist()
    assert (triples[triples[..., 2] == 0] == 0).all()
    assert triples[..., :2].max() < SIDE
    assert triples[..., :2].min() >= -0.5


def test_a_keypoint_is_written_as_the_index_of_its_pixel() -> None:
    """COCO's way: the middle of the first pixel is 0, and a visible keypoint is on a visible pixel of its figure."""
    seen = 0
    for seed in range(8):
        for thing in draw_scene(np.random.default_rng(seed))[1]:
            for x, y, v in np.reshape(drawn._annotation(thing, 1, 1, keypoints=True).get("keypoints", []), (-1, 3)):
                if v == 2:
                    assert thing.visible[int(y + 0.5), int(x + 0.5)]
                    seen += 1
    assert seen > 40
    keypoints = np.array([[10.0, 20.0], [0.25, 159.5]])
    mask = np.ones((SIDE, SIDE), dtype=bool)
    thing = drawn._Object(FIGURE, Shape([], [], keypoints), mask, mask)
    assert drawn._keypoints(thing, keypoints)["keypoints"] == [9.5, 19.5, 2, -0.25, 159.0, 2]


def test_the_reader_takes_all_of_it(folder) -> None:
    seen_empty = 0
    for split, count in (("train", TRAIN), ("val", VAL)):
        dataset = read_dataset(folder / f"{split}.json", keypoints=True)
        assert len(dataset) == count
        assert not dataset.report.problems
        assert tuple(category.name for category in dataset.categories) == CLASSES
        assert dataset.categories[FIGURE].flip_pairs == FLIP_PAIRS
        assert dataset.num_keypoints == len(KEYPOINTS)
        seen_empty += (dataset.annotation_counts == 0).sum()
        assert pixels(dataset.path(0)).shape == (SIDE, SIDE, 3)
    assert seen_empty > 0


def test_equal_seeds_draw_equal_images(folder, tmp_path) -> None:
    draw_dataset(tmp_path, train=2, val=3, seed=3, keypoints=False)
    for i in (1, 2):
        name = f"images/train-{i:05}.png"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    few, many = contents(tmp_path, "val"), contents(folder, "val")
    assert [a["bbox"] for a in few["annotations"]] == [a["bbox"] for a in many["annotations"] if a["image_id"] <= 3]
    assert not any("keypoints" in entry for entry in few["annotations"] + few["categories"])
    other = draw_scene(np.random.default_rng([4, 0, 0]))[0]
    assert (other != pixels(folder / "images/train-00001.png")).any()


def test_train_and_val_are_different_images(folder) -> None:
    assert (folder / "images/train-00001.png").read_bytes() != (folder / "images/val-00001.png").read_bytes()


def test_a_complete_data_set_is_left_alone(tmp_path, monkeypatch) -> None:
    draw_dataset(tmp_path, train=1, val=1, seed=0)
    monkeypatch.setattr(drawn, "draw_scene", lambda rng: pytest.fail("drawn again"))
    draw_dataset(tmp_path, train=1, val=1, seed=0)
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        draw_dataset(tmp_path, train=1, val=1, seed=1)
