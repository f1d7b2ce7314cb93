"""GeoJSON in QuPath's layout: known by hand, and drawn again from its rings."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.dataset import Shape
from maskrcnn.data.formats.geojson import Writer
from maskrcnn.data.shapes import segmentation_of_rings
from tests.data.records import CATEGORIES, record, runs

SQUARE = np.array([[1.0, 1], [4, 1], [4, 4], [1, 4]])
BITMAPS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def written(folder: Path, *records, split="all"):
    writer = Writer(folder, CATEGORIES, "refer")
    for one in records:
        writer.add(one, split)
    writer.close()
    return writer


def features(path: Path):
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    assert all(feature["type"] == "Feature" for feature in content["features"])
    return content["features"]


def area(ring) -> float:
    """Positive if the ring is counterclockwise, x to the right and y up."""
    x, y = np.array(ring)[:-1].T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_an_annotation(tmp_path: Path) -> None:
    written(tmp_path, record([[SQUARE[::-1]]], labels=np.array([1])))
    (feature,) = features(tmp_path / "a.geojson")
    assert uuid.UUID(feature["id"])
    assert feature["geometry"]["type"] == "Polygon"
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert sorted(ring[:-1]) == sorted(SQUARE.tolist())
    assert area(ring) == 9
    properties = feature["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"]["name"] == "nucleus"
    assert len(properties["classification"]["color"]) == 3
    assert all(0 <= value <= 255 for value in properties["classification"]["color"])
    assert "measurements" not in properties


def test_a_prediction_is_a_detection_with_its_score_and_sub_pixel_outlines(tmp_path: Path) -> None:
    shape = Shape(SQUARE + 0.125, [SQUARE / 2 + 1])
    given = record([runs(np.ones((20, 30), bool))], scores=np.array([0.75]), shapes=[[shape]])
    written(tmp_path, given)
    (feature,) = features(tmp_path / "a.geojson")
    assert feature["properties"]["objectType"] == "detection"
    assert feature["properties"]["measurements"] == {"score": 0.75}
    outer, hole = feature["geometry"]["coordinates"]
    assert outer[0] == [1.125, 1.125]
    assert (area(outer), area(hole)) == (9, -2.25)


def test_several_parts_are_a_multipolygon(tmp_path: Path) -> None:
    written(tmp_path, record([[SQUARE, SQUARE + 6]]))
    (feature,) = features(tmp_path / "a.geojson")
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert len(feature["geometry"]["coordinates"]) == 2


def test_a_box_alone_is_a_rectangle(tmp_path: Path) -> None:
    written(tmp_path, record([None], boxes=[[2, 3, 7, 9]]))
    (feature,) = features(tmp_path / "a.geojson")
    assert feature["geometry"]["coordinates"] == [[[2, 3], [7, 3], [7, 9], [2, 9], [2, 3]]]


@given(BITMAPS)
def test_the_rings_draw_the_same_mask(tmp_path_factory, bitmap) -> None:
    folder = tmp_path_factory.mktemp("geojson")
    written(folder, record([runs(bitmap)] if bitmap.any() else [], size=bitmap.shape))
    found = features(folder / "a.geojson")
    assert len(found) == bitmap.any()
    for feature in found:
        geometry = feature["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        assert all(ring[0] == ring[-1] for polygon in polygons for ring in polygon)
        rings = [np.array(ring[:-1]) for polygon in polygons for ring in polygon]
        drawn = draw_bitmap(segmentation_of_rings(rings, bitmap.shape), bitmap.shape)
        np.testing.assert_array_equal(drawn, bitmap)
        assert sum(area(ring) for polygon in polygons for ring in polygon) == bitmap.sum()


def test_crowds_are_marked_and_keypoints_counted(tmp_path: Path) -> None:
    keypoints = np.array([[[1, 2, 2]], [[0, 0, 0]]], np.float32)
    crowd = record([[SQUARE], [SQUARE]], ignore=np.array([True, False]), keypoints=keypoints)
    writer = written(tmp_path, crowd)
    first, second = features(tmp_path / "a.geojson")
    assert first["properties"]["metadata"] == {"crowd": "true"}
    assert "metadata" not in second["properties"]
    assert writer.lost == {"keypoints of an object": 1}


def test_images_that_differ_in_their_suffix_have_a_file_each(tmp_path: Path) -> None:
    written(tmp_path, record([[SQUARE]]), record([], name="a.jpg"), record([], name="sub/a.png"))
    assert len(features(tmp_path / "a.geojson")) == 1
    assert features(tmp_path / "a.jpg.geojson") == []
    assert features(tmp_path / "sub" / "a.geojson") == []


@pytest.mark.parametrize("name", ["../../a.png", "/etc/a.png", "..\\a.png", "C:\\x\\a.png", "C:a.png"])
def test_no_name_leaves_the_folder(name, tmp_path: Path) -> None:
    folder = tmp_path / "one" / "two"
    written(folder, record([], name=name), split="val")
    assert all((folder / "val").resolve() in path.resolve().parents for path in tmp_path.rglob("*.geojson"))
    assert len(list(folder.rglob("*.geojson"))) == 1


def test_ids_are_the_same_in_every_run_and_differ_between_objects(tmp_path: Path) -> None:
    given = record([[SQUARE], [SQUARE]])
    written(tmp_path / "1", given)
    written(tmp_path / "2", given, record([[SQUARE]], name="b.png"))
    first = [feature["id"] for feature in features(tmp_path / "1" / "a.geojson")]
    again = [feature["id"] for feature in features(tmp_path / "2" / "a.geojson")]
    assert first == again
    assert len({*first, features(tmp_path / "2" / "b.geojson")[0]["id"]}) == 3


@pytest.mark.parametrize("how", ["copy", "link"])
def test_images_are_put_beside_their_files(how, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"image")
    writer = Writer(tmp_path / "out", CATEGORIES, how)
    writer.add(record([[SQUARE]], path=tmp_path / "in" / "a.png"), "val")
    assert (tmp_path / "out" / "val" / "a.png").read_bytes() == b"image"
    assert (tmp_path / "out" / "val" / "a.png").is_symlink() == (how == "link")
