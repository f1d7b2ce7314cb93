"""Strange COCO files: only `DataError` comes out, whatever they hold; what is read can be written and read again."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskrcnn.data.formats import read_dataset
from maskrcnn.data.formats.coco import write as write_coco
from maskrcnn.errors import DataError
from tests.data.coco_files import (
    anything,
    same_objects,
    scalars,
    segmentations,
    with_keypoints,
    write,
)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_writing_loses_nothing(data, fuzz_folder) -> None:
    points = st.floats(0, 10) | st.integers(0, 10)
    polygons = st.lists(
        st.lists(points, min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), min_size=1, max_size=3
    )
    runs = st.lists(st.integers(0, 20), max_size=6).map(lambda counts: [*counts, 120 - sum(counts)])
    masks = polygons | runs.map(lambda counts: {"size": [10, 12], "counts": counts}) | st.none()
    boxes = st.lists(st.floats(0.1, 12), min_size=4, max_size=4) | st.none()
    content = with_keypoints()
    for annotation in content["annotations"]:
        annotation |= {"segmentation": data.draw(masks), "bbox": data.draw(boxes), "iscrowd": data.draw(st.booleans())}
        annotation |= data.draw(
            st.fixed_dictionaries({}, optional={"score": st.floats(0, 1), "area": st.floats(0, 99)})
        )
    path = fuzz_folder / "data.json"
    path.write_text(json.dumps(content))
    keypoints = data.draw(st.booleans())
    first = read_dataset(path, keypoints=keypoints)
    write_coco(first, path)
    again = read_dataset(path, keypoints=keypoints)
    assert again.report.problems == []
    same_objects(first, again)


KEYS = ["id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area", "keypoints"]
QUADS = st.lists(scalars, min_size=4, max_size=4)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, with_keypoints())
    return folder


def check_sound(data) -> None:
    """What all readers of a data set rely on."""
    objects = data.objects
    assert len(np.unique(objects.ids)) == len(objects.ids)
    assert np.isfinite(objects.boxes).all()
    assert (objects.boxes[:, 2:] > objects.boxes[:, :2]).all()
    assert np.isfinite(objects.areas).all()
    for i in range(len(data)):
        record = data.record(i)
        height, width = record.size
        assert (record.boxes >= -1).all()
        assert (record.boxes <= np.array([width, height, width, height], np.float32) + 1).all()
        for segmentation in record.segmentations:
            if isinstance(segmentation, tuple):
                assert segmentation[0].sum(dtype=np.int64) == height * width
            elif segmentation is not None:
                assert segmentation
                assert all(len(polygon) >= 3 and np.isfinite(polygon).all() for polygon in segmentation)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_only_data_errors_come_out_of_strange_annotations(data, fuzz_folder) -> None:
    content = with_keypoints()
    for annotation in content["annotations"]:
        for key in data.draw(st.lists(st.sampled_from(KEYS), max_size=3, unique=True)):
            annotation[key] = data.draw(
                segmentations if key == "segmentation" else anything | st.lists(scalars, min_size=4, max_size=4)
            )
    path = fuzz_folder / "data.json"
    path.write_text(json.dumps(content))
    keypoints = data.draw(st.booleans())
    result = read_dataset(path, keypoints=keypoints)  # bad annotations alone never make an error
    assert result.report.annotations_in_file == len(result.objects.ids) + result.report.count("annotation")
    check_sound(result)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_only_data_errors_come_out_of_strange_files(data, fuzz_folder) -> None:
    content = copy.deepcopy(with_keypoints())
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from(["images", "categories", "annotations"]))
        if not isinstance(content.get(target), list) or not content[target] or data.draw(st.integers(0, 9)) == 0:
            content[target] = data.draw(anything)
            continue
        entry = data.draw(st.sampled_from(content[target]))
        if isinstance(entry, dict) and entry:
            entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(anything)
    text = json.dumps(content)
    if data.draw(st.integers(0, 5)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    path = fuzz_folder / "data.json"
    path.write_text(text)
    strict, keypoints = data.draw(st.booleans()), data.draw(st.booleans())
    try:
        check_sound(read_dataset(path, strict=strict, keypoints=keypoints))
    except DataError as error:
        message = str(error)
    else:
        message = "data.json"
    assert "data.json" in message
