"""The scanner of large COCO files: what it calls plain is what json reads, and a data set read by it is the one that
json gives, problems included.
"""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maskrcnn.data.formats.coco import read_coco
from maskrcnn.data.formats.coco_scan import KIND, ODD, SCAN_FROM, reader_of, scan_annotations
from maskrcnn.errors import DataError
from tests.data.test_coco import (
    BROKEN,
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

pytest.importorskip("numba")
RELAXED = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]


def text_of(words: str) -> np.ndarray:
    return np.frombuffer(words.encode(), np.uint8)


# --- pieces --------------------------------------------------------------------------------------------------------

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
@example("9007199254740993.0")  # 2**53 + 1, a tie: to even
@example("9007199254740995.0")
@example("0.500000000000000166")  # just above the middle of two doubles
@example("1234567890123456789")
def test_a_number_is_the_one_that_json_reads_or_none(word) -> None:
    from maskrcnn.data.formats.json_numba import FRACTION, INTEGER, NOT_PLAIN, number

    end, value, whole, kind = number(text_of(word + ","), 0)
    if kind == NOT_PLAIN:
        return
    assert end == len(word)
    expected = json.loads(word)
    assert (kind == INTEGER) == (type(expected) is int)
    assert kind in (INTEGER, FRACTION)
    assert np.float64(value).tobytes() == np.float64(expected).tobytes()
    assert whole == (expected if kind == INTEGER else 0)


@pytest.mark.parametrize("word", ["0", "-7", "12.5", "0.001", "123.45678901234567", "0.012345678901234567", "-3.0"])
def test_usual_numbers_are_plain(word) -> None:
    from maskrcnn.data.formats.json_numba import NOT_PLAIN, number

    assert number(text_of(word), 0)[3] != NOT_PLAIN


def test_quotients_are_rounded_to_the_nearest(rng) -> None:
    from maskrcnn.data.formats.json_numba import number

    for places in range(1, 19):
        for digits in rng.integers(2**53, 10**18, 200).tolist():
            word = f"{digits:020d}"
            word = f"{int(word[:-places])}.{word[-places:]}"
            end, value, _, kind = number(text_of(word), 0)
            assert kind == 0 or (end == len(word) and value == float(word))


@RELAXED
@given(anything, st.sampled_from([None, 1]), st.integers(0, 40), st.sampled_from('{}[],:"\\01-. tn'))
def test_what_is_skipped_is_json(value, indent, place, letter) -> None:
    from maskrcnn.data.formats.json_numba import element_end, skip

    whole = json.dumps(value, indent=indent, ensure_ascii=False)
    for words in (whole, whole[:place] + letter + whole[place:], whole[:place] + whole[place + 1 :]):
        text = np.frombuffer(words.encode("utf-8", "surrogatepass"), np.uint8)
        end = skip(text, 0)
        if end > 0:
            json.loads(words.encode()[:end])
    text = np.frombuffer(f"{whole}, 5]".encode("utf-8", "surrogatepass"), np.uint8)
    assert element_end(text, 0) == len(text) - len(", 5]")


@pytest.mark.parametrize(
    "words", ['{"a": {"b": [1, 2, {"c": null}], "d": ""}, "e": []}', "[]", "{}", '"x"', "true", "-1.5"]
)
def test_plain_values_are_skipped(words) -> None:
    from maskrcnn.data.formats.json_numba import skip

    assert skip(text_of(words + " ]"), 0) == len(words)


def test_a_list_is_found_in_the_outermost_object_only() -> None:
    from maskrcnn.data.formats.json_numba import find_list

    words = '{"a": {"list": [1]}, "x\\"": "list", "b": "{[\\\\", "list" : [2]}'
    assert find_list(text_of(words), text_of("list")) == words.index("[2]")
    assert find_list(text_of('{"list": {"list": [1]}}'), text_of("list")) == -1
    assert find_list(text_of('["list"'), text_of("list")) == -1
    assert find_list(text_of('{"list'), text_of("list")) == -1


# --- files ---------------------------------------------------------------------------------------------------------


def outcome(path, impl, **options):
    """Everything that reading a file gives, or the error."""
    try:
        data = read_coco(path, impl=impl, **options)
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
        told = [array is not None and (array.dtype, array.shape, array.tolist()) for array in arrays]
        records.append((record.image_id, record.path, record.size, told, masks))
    report = data.report
    problems = (report.problems, report.lost_with_image, report.images_in_file, report.annotations_in_file)
    return data.categories, data.fingerprint, records, problems


def assert_same(path, **options) -> None:
    assert outcome(path, "numba", **options) == outcome(path, "json", **options)


def kinds(content, **options) -> list[int] | None:
    found = scan_annotations(content if isinstance(content, bytes) else json.dumps(content).encode(), **options)
    return None if found is None else found[0].whole[:, KIND].tolist()


def test_a_usual_file_is_scanned_without_json(tmp_path) -> None:
    assert kinds(coco(), keypoints=False) == [1, 2, 2, 0]
    assert kinds(with_keypoints(), keypoints=True) == [1, 1, 1]
    assert_same(write(tmp_path, coco()))
    assert_same(write(tmp_path, with_keypoints()), keypoints=True)
    assert_same(write(tmp_path, json.dumps(coco(), indent=2)))


def test_keypoints_that_no_category_names_are_told_alike(tmp_path) -> None:
    content = with_keypoints()
    content["annotations"][2]["keypoints"] = [1, 2, 2]
    assert_same(write(tmp_path, content), keypoints=True)


def test_other_fields_may_hold_anything_plain() -> None:
    extra = {
        "attributes": {"occluded": False, "tags": ["a", {}]},
        "score": 0.5,
        "caption": "a pear",
        "keypoints": [1, 2, 2],
    }
    odd = {"caption": 'a "pear"'}
    assert kinds(coco(annotations=[GOOD | extra, GOOD | odd]), keypoints=False) == [1, ODD]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_told_alike(name, tmp_path) -> None:
    content = coco()
    content["annotations"].insert(1, GOOD | BROKEN[name][0])
    path = write(tmp_path, content)
    assert_same(path)
    assert_same(path, strict=True)


@pytest.mark.parametrize("name", IMAGES)
def test_broken_images_are_told_alike(name, tmp_path) -> None:
    content = coco()
    content["images"].insert(2, {"id": 77, "file_name": "c.png", "height": 10, "width": 12} | IMAGES[name][0])
    content["annotations"].insert(0, GOOD | {"image_id": 77})
    assert_same(write(tmp_path, content))


@pytest.mark.parametrize("name", NOT_COCO)
def test_what_is_not_coco_is_told_alike(name, tmp_path) -> None:
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
    runs = {"size": [10.0, 12], "counts": coco()["annotations"][2]["segmentation"]["counts"]}
    content = coco()
    content["annotations"] += [
        GOOD | {"segmentation": bad},
        GOOD | {"id": None, "segmentation": bad},
        GOOD | {"id": 11, "segmentation": runs},
        GOOD | {"id": None, "segmentation": {"size": [10, 12], "counts": [60, 60]}},
        GOOD | {"id": 12, "segmentation": [*bad, SQUARE]},
    ]  # fmt: skip
    path = write(tmp_path, content)
    found = kinds(path.read_bytes(), keypoints=False)
    assert found == [1, 2, 2, 0, 1, ODD, ODD, ODD, 1]
    assert_same(path)
    data = read_coco(path, impl="numba")
    assert [p.annotation_id for p in data.report.problems if p.kind == "part"] == [9, None, 12]


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
    "letters": '{%s, "annotations": [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [1,1,2,2], "name": "ä"}]}',
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_json_judges_what_is_unclear(name, tmp_path) -> None:
    lists = ", ".join(f'"{key}": {json.dumps(coco()[key])}' for key in ("images", "categories"))
    for image in coco()["images"]:
        (tmp_path / image["file_name"]).touch()
    assert_same(write(tmp_path, TEXTS[name] % lists))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
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
    by_numba, by_json = (outcome(path, impl, keypoints=keypoints) for impl in ("numba", "json"))
    # A file with two faults may be refused for either.
    assert by_numba == by_json or (isinstance(by_numba, str) and isinstance(by_json, str))


def test_small_files_are_json_s() -> None:
    assert reader_of(SCAN_FROM - 1) == "json"
    assert reader_of(SCAN_FROM) == "numba"


@pytest.mark.data
@pytest.mark.parametrize("name", ["nuclei/train.json", "pennfudan/val.json", "coco-mini/person_keypoints_train.json"])
def test_real_files_are_read_alike(name, test_data) -> None:
    path = test_data / name
    assert ODD not in (kinds(path.read_bytes(), keypoints=True) or [ODD])
    assert_same(path, keypoints="keypoints" in name)
