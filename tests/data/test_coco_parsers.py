"""The two parsers of a COCO file: msgspec, one annotation at a time, and json for what msgspec refuses. Both give the
same data set, problems included.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maskrcnn.data.formats import coco as reader
from maskrcnn.data.formats import coco_text, read_dataset
from maskrcnn.errors import DataError
from tests.data.coco_files import (
    BROKEN,
    COUNTS,
    GOOD,
    IMAGES,
    NOT_COCO,
    SQUARE,
    anything,
    coco,
    segmentations,
    with_keypoints,
    write,
)

RELAXED = settings(max_examples=200, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]


@contextmanager
def json_alone() -> Iterator[None]:
    """Reads as if msgspec had refused the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "split", lambda content: None)
        yield


def outcome(path, **options):
    """Everything that reading a file gives, or the error."""
    try:
        data = read_dataset(path, **options)
    except DataError as error:
        return str(error)
    records = []
    for i in range(len(data)):
        record = data.record(i)
        masks = []
        for mask in record.segmentations:
            if isinstance(mask, list):
                masks.append([(part.dtype, part.tolist()) for part in mask])
            else:
                masks.append(mask and (mask[0].dtype, mask[0].tolist(), mask[1]))
        arrays = (record.boxes, record.labels, record.ignore, record.keypoints, record.annotation_ids, record.areas)
        values = [array is not None and (array.dtype, array.shape, array.tolist()) for array in arrays]
        records.append((record.image_id, record.path, record.size, values, masks))
    report = data.report
    problems = (report.problems, report.lost_with_image, report.images_in_file, report.annotations_in_file)
    return data.categories, data.fingerprint, records, problems


def outcomes(path, **options):
    """By msgspec, then by json alone."""
    first = outcome(path, **options)
    with json_alone():
        return first, outcome(path, **options)


def assert_same(path, **options) -> None:
    by_msgspec, by_json = outcomes(path, **options)
    assert by_msgspec == by_json


def parsed_by_json(path, **options) -> list:
    """What json parsed besides the categories: records that msgspec refused, or the whole file."""
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        parse = coco_text.parse
        for module in (reader, coco_text):
            patch.setattr(module, "parse", lambda text, *rest: texts.append(bytes(text)) or parse(text, *rest))
        read_dataset(path, **options)
    parsed = [json.loads(text) for text in texts]
    return [value for value in parsed if not isinstance(value, dict) or "name" not in value]


INFINITE = 987654321


def too_large(content) -> str:
    """The json, with a number in the place of INFINITE that json reads as infinity and msgspec refuses."""
    return json.dumps(content).replace(str(INFINITE), "1e999")


def touch_images(folder) -> None:
    for image in coco()["images"]:
        (folder / image["file_name"]).touch()


def test_a_usual_file_is_read_without_json(tmp_path) -> None:
    for content, options in ((coco(), {}), (with_keypoints(), {"keypoints": True})):
        for indent in (None, 2):
            path = write(tmp_path, content)
            path.write_text(json.dumps(content, indent=indent))
            assert parsed_by_json(path, **options) == []
            assert_same(path, **options)


def test_one_odd_annotation_is_left_to_json(tmp_path) -> None:
    odd = [GOOD | {"id": 2, "area": INFINITE}, 5]
    path = write(tmp_path, too_large(coco(annotations=[GOOD, *odd])))
    touch_images(tmp_path)
    assert parsed_by_json(path) == [GOOD | {"id": 2, "area": float("inf")}, 5]
    assert_same(path)
    content = coco(annotations=[GOOD | {"caption": "\ud800"}])
    path = write(tmp_path, content)  # msgspec refuses half a surrogate wherever it is
    assert parsed_by_json(path) == [content]
    assert_same(path)


def test_keypoints_that_no_category_names_are_reported_alike(tmp_path) -> None:
    content = with_keypoints()
    content["annotations"][2]["keypoints"] = [1, 2, 2]
    assert_same(write(tmp_path, content), keypoints=True)


def test_other_fields_may_hold_anything(tmp_path) -> None:
    extra = {
        "attributes": {"occluded": False, "tags": ["a", {}]},
        "score": 0.5,
        "caption": 'a "pear"',
        "keypoints": [1, 2, 2],
    }
    path = write(tmp_path, coco(annotations=[GOOD | extra, GOOD | {"id": 10}]))
    assert parsed_by_json(path) == []
    assert_same(path)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_reported_alike(name, tmp_path) -> None:
    content = coco()
    content["annotations"].insert(1, GOOD | BROKEN[name][0])
    path = write(tmp_path, content)
    assert_same(path)
    assert_same(path, strict=True)


@pytest.mark.parametrize("name", IMAGES)
def test_broken_images_are_reported_alike(name, tmp_path) -> None:
    content = coco()
    content["images"].insert(2, {"id": 77, "file_name": "c.png", "height": 10, "width": 12} | IMAGES[name][0])
    content["annotations"].insert(0, GOOD | {"image_id": 77})
    assert_same(write(tmp_path, content))


@pytest.mark.parametrize("name", NOT_COCO)
def test_what_is_not_coco_is_reported_alike(name, tmp_path) -> None:
    assert_same(write(tmp_path, NOT_COCO[name][0]))


def test_all_annotations_may_be_lost_or_odd(tmp_path) -> None:
    assert_same(write(tmp_path, coco(annotations=[])))
    assert_same(write(tmp_path, coco(annotations=[GOOD | {"id": None}] * 3)))
    assert_same(write(tmp_path, coco(annotations=[5, "x", None, []])))
    path = write(tmp_path, coco(annotations=[GOOD]))
    (tmp_path / "b.png").unlink()
    assert_same(path)


def test_good_odd_and_bad_parts_keep_their_order(tmp_path) -> None:
    bad = [SQUARE, [1, 1, 3, 3, 5, 5]]
    content = coco()
    content["annotations"] += [
        GOOD | {"segmentation": bad},
        GOOD | {"id": None, "segmentation": bad},
        GOOD | {"id": 11, "segmentation": {"size": [10.0, 12], "counts": [*COUNTS[:-1], 43.5]}},
        GOOD | {"id": 11, "segmentation": {"size": [10.0, 12], "counts": COUNTS}, "area": INFINITE},
        GOOD | {"id": None, "segmentation": {"size": [10, 12], "counts": [60, 60]}},
        GOOD | {"id": 12, "segmentation": [*bad, SQUARE]},
    ]  # fmt: skip
    path = write(tmp_path, too_large(content))
    touch_images(tmp_path)
    assert [entry["id"] for entry in parsed_by_json(path)] == [11]
    assert_same(path)
    data = read_dataset(path)
    assert [p.annotation_id for p in data.report.problems if p.kind == "part"] == [9, None, 12]
    assert data.record(1).annotation_ids.tolist() == [1, 3, 4, 9, 13, 11, 14, 15, 12]


TEXTS = {
    "key twice, the last counts": '{"annotations": [], %s, "annotations": [5]}',
    "key twice, the last a text": '{"annotations": [5], %s, "annotations": "x"}',
    "key with an escape": '{"annotations": [5], %s, "\\u0061nnotations": []}',
    "key in a text": '{"info": "\\"annotations\\": [", %s, "annotations": []}',
    "key below": '{"info": {"annotations": [1]}, %s, "annotations": [2]}',
    "comma too many": '{%s, "annotations": [5, ]}',
    "comma missing": '{%s, "annotations": [{} {}]}',
    "bracket of another kind": '{%s, "annotations": [{"a": [}]]}',
    "end missing": '{%s, "annotations": [{"id": 1}',
    "text after the end": '{%s, "annotations": []} x',
    "control character": '{%s, "annotations": [{"id": "\n"}]}',
    "wrong number": '{%s, "annotations": [{"id": 01}]}',
    "field twice": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,2], "id": 2}]}',
    "number too large": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,1e999]}]}',
    "not a number": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,NaN]}]}',
    "deep": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,2], "x": ' + "[" * 2000
    + "]" * 2000 + "}]}",
    "integer of 5000 digits": '{%s, "annotations": [{"id": 1, "image_id": 3, "bbox": [' + "1" * 5000 + "]}]}",
    "half a surrogate": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,2], '
    '"name": "\\ud800"}]}',
    "half a surrogate as key of an annotation": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, '
    '"bbox": [1,1,2,2], "\\ud800": 1}]}',
    "half a surrogate as key": '{%s, "annotations": [], "\\ud800": 1}',
    "letters": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,2], "name": "ä"}]}',
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_unusual_texts_are_read_alike(name, tmp_path) -> None:
    lists = ", ".join(f'"{key}": {json.dumps(coco()[key])}' for key in ("images", "categories"))
    touch_images(tmp_path)
    assert_same(write(tmp_path, TEXTS[name] % lists))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"])
def test_other_encodings_are_read_alike(encoding, tmp_path) -> None:
    path = write(tmp_path, coco())
    (tmp_path / "ä.png").touch()
    path.write_bytes(path.read_text().replace("a.png", "ä.png").encode(encoding))
    assert_same(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    write(folder, with_keypoints())
    return folder


numbers = st.one_of(st.integers(-2, 12), st.floats(-3, 15), st.none(), st.booleans(), st.integers(), st.just(5.0))
fields = st.fixed_dictionaries(
    {},
    optional={
        "id": numbers, "image_id": st.sampled_from([3, 7, 4]) | numbers, "category_id": st.sampled_from([1, 2, 3, 9]),
        "bbox": st.lists(numbers, min_size=4, max_size=4) | anything, "segmentation": segmentations, "area": anything,
        "iscrowd": numbers, "ignore": numbers, "keypoints": st.lists(st.integers(0, 3), max_size=9) | anything,
        "note": anything,
    },
)  # fmt: skip


@RELAXED
@given(changes=st.lists(fields, max_size=5), keypoints=st.booleans(), strict=st.booleans())
def test_strange_annotations_are_read_alike(changes, keypoints, strict, folder) -> None:
    content = with_keypoints()
    content["annotations"] += [content["annotations"][0] | change for change in changes]
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    assert_same(path, keypoints=keypoints, strict=strict)


LETTERS = [*'{}[],:"\\01-.e tn', ""]


@RELAXED
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(LETTERS), st.booleans()), max_size=3),
    keypoints=st.booleans(),
)
def test_damaged_files_are_read_alike(edits, keypoints, folder) -> None:
    text = json.dumps(with_keypoints())
    for where, letter, replaces in edits:
        place = int(where * len(text))
        text = text[:place] + letter + text[place + replaces :]
    path = folder / "data.json"
    path.write_text(text)
    by_msgspec, by_json = outcomes(path, keypoints=keypoints)
    # A file with two faults may be refused for either.
    assert by_msgspec == by_json or (isinstance(by_msgspec, str) and isinstance(by_json, str))


digits = st.text("0123456789", max_size=21)
written = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e4, 1e4).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.tuples(st.sampled_from(["", "-"]), digits, st.sampled_from(["", ".", "e1", "."]), digits).map("".join),
)


@RELAXED
@given(written)
@example("0.1")
@example("-0.0")
@example("-0")
@example("01")
@example("1.")
@example("9007199254740993")  # 2**53 + 1, a tie: to even
@example("9007199254740993.0")
@example("9007199254740995.0")
@example("0.500000000000000166")  # just above the middle of two doubles
@example("1234567890123456789")
@example("18446744073709551616")
@example("1e308")
@example("1e309")
def test_a_number_is_the_one_that_json_reads(folder, word) -> None:
    changes = [f'"area": {word}', f'"id": {word}', f'"bbox": [{word}, 1, 2, 2], "segmentation": null']
    rows = [json.dumps(GOOD | {"id": n})[:-1] + ", " + change + "}" for n, change in enumerate(changes, 20)]
    path = folder / "data.json"
    path.write_text(
        json.dumps(coco(annotations=[])).replace('"annotations": []', f'"annotations": [{", ".join(rows)}]')
    )
    assert_same(path)


@settings(RELAXED, max_examples=40)  # six readings each
@given(anything, st.sampled_from([None, 1]), st.integers(0, 40), st.sampled_from('{}[],:"\\01-. tn'))
def test_fields_that_nobody_reads_must_still_be_json(folder, value, indent, place, letter) -> None:
    whole = json.dumps(value, indent=indent, ensure_ascii=False)
    path = folder / "data.json"
    content = json.dumps(coco() | {"note": 0})
    for words in (whole, whole[:place] + letter + whole[place:], whole[:place] + whole[place + 1 :]):
        for where in ('"note": 0', '"id": 4'):
            changed = content.replace(where, f'{where}, "other": {words}')
            path.write_bytes(changed.encode("utf-8", "surrogatepass"))
            by_msgspec, by_json = outcomes(path)
            assert by_msgspec == by_json or (isinstance(by_msgspec, str) and isinstance(by_json, str))


@pytest.mark.data
@pytest.mark.parametrize("name", ["nuclei/train.json", "pennfudan/val.json", "coco-mini/person_keypoints_train.json"])
def test_real_files_are_read_alike(name, test_data) -> None:
    path = test_data / name
    assert parsed_by_json(path, keypoints="keypoints" in name) == []
    assert_same(path, keypoints="keypoints" in name)
