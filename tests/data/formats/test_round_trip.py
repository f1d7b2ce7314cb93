"""Every format that is written and read: what it was given comes back, or the writer counts it as lost."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskrcnn.categories import Category
from maskrcnn.data.dataset import Dataset, Record
from maskrcnn.data.formats import READERS, WRITERS, writer
from maskrcnn.errors import DataError
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.formats.drawn import layered, objects_of_record, read_all, record_of, save_image

BOTH = sorted(set(READERS) & set(WRITERS))
APART = {"labelstudio"}  # predictions are no annotations there until a person accepts them
CATEGORIES = [Category(1, "car"), Category(2, "person")]  # names that a format with classes of its own knows, too
SIZE = (12, 16)


def bitmap(*spans: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles of rows and columns, united; a later one inside an earlier one is a hole."""
    drawn = np.zeros(SIZE, bool)
    for top, bottom, left, right in spans:
        drawn[top:bottom, left:right] ^= True
    return drawn


DRAWN = {
    "rectangle": [bitmap((2, 6, 3, 9))],
    "no object": [],
    "one pixel": [bitmap((4, 5, 7, 8))],
    "a corner of the image": [bitmap((0, 3, 0, 2)), bitmap((9, 12, 13, 16))],
    "the whole image": [bitmap((0, 12, 0, 16))],
    "touching borders": [bitmap((2, 6, 3, 7)), bitmap((2, 6, 7, 11)), bitmap((6, 9, 3, 11))],
    "touching corners": [bitmap((2, 4, 2, 4), (4, 6, 4, 6))],
    "a hole": [bitmap((1, 9, 1, 9), (3, 6, 3, 6))],
    "an object in a hole": [bitmap((1, 9, 1, 9), (3, 6, 3, 6)), bitmap((4, 5, 4, 5))],
    "two parts": [bitmap((1, 4, 1, 4), (6, 9, 6, 12))],
    "overlapping": [bitmap((1, 6, 1, 6)), bitmap((4, 9, 4, 9))],
    "a box alone": [None, bitmap((2, 6, 3, 9))],
    "a polygon": [[np.array([[2.0, 1], [13, 1], [13, 10], [7, 10], [7, 5], [2, 5]])]],
}


def write(name: str, out: Path, records: list[tuple[Record, str]], categories=CATEGORIES) -> Counter[str]:
    target = writer(name, out, categories, "copy")
    for record, split in records:
        target.add(record, split)
    target.close()
    return +target.lost


def other_image(folder: Path) -> Record:
    """Makes it a set with something to learn."""
    return record_of(save_image(folder / "in" / "b.png", SIZE), DRAWN["rectangle"], [0], SIZE, image_id=2)


def read_again(out: Path) -> dict[str, Dataset]:
    """All splits; COCO's one json if the set is not divided."""
    return read_all(out / "annotations.json" if (out / "annotations.json").exists() else out)


def objects(dataset: Dataset) -> Counter[tuple]:
    """Objects with the stems of their images, to which a format may add."""
    found: Counter[tuple] = Counter()
    for i in range(len(dataset)):
        stem = Path(dataset.name(i)).stem.removesuffix("_leftImg8bit")
        found.update((stem, *one) for one in objects_of_record(dataset.record(i), dataset))
    return found


def expected(stem: str, record: Record) -> Counter[tuple]:
    shown = Dataset.__new__(Dataset)
    shown.categories = tuple(CATEGORIES)
    return Counter((stem, *one) for one in objects_of_record(record, shown))


def again(name: str, out: Path, found: dict[str, Dataset]) -> dict[str, Counter[tuple]]:
    """What a second copy holds, written from what was read of the first."""
    (first, *_) = found.values()
    records = [(d.record(i, exact=True), split) for split, d in found.items() for i in range(len(d))]
    write(name, out, records, first.categories)
    return {split: objects(data) for split, data in read_again(out).items()}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("name", BOTH)
def test_what_is_written_is_read_again_or_counted_as_lost(tmp_path, name, kind) -> None:
    segmentations = DRAWN[kind]
    labels = [i % 2 for i in range(len(segmentations))]
    record = record_of(save_image(tmp_path / "in" / "a.png", SIZE), segmentations, labels, SIZE)
    other = other_image(tmp_path)
    lost = write(name, tmp_path / "one", [(record, "all"), (other, "all")])
    found = read_again(tmp_path / "one")
    (data,) = found.values()
    assert len(data) == 2
    given, got = expected("a", record) + expected("b", other), objects(data)
    if lost:
        assert (given - got).total() <= lost.total(), lost
    else:
        assert got == given
        assert data.report.summary() == ""
    assert list(again(name, tmp_path / "two", found).values()) == [got]


@pytest.mark.parametrize("name", BOTH)
def test_splits_names_and_images(tmp_path, name) -> None:
    bitmaps = DRAWN["touching borders"]
    records, wanted = [], {}
    for split, file in (("train", "a.png"), ("train", "sub/b.jpg"), ("val", "c d.png"), ("val", "e.tar.png")):
        image = save_image(tmp_path / "in" / file, SIZE)
        record = record_of(image, bitmaps, [0, 1, 0], SIZE, name=file, image_id=len(records) + 1)
        records.append((record, split))
        wanted[split] = wanted.get(split, Counter()) + expected(image.stem, record)
    assert not write(name, tmp_path / "one", records)
    found = read_again(tmp_path / "one")
    assert {split: objects(data) for split, data in found.items()} == wanted
    for data in found.values():
        for i in range(len(data)):
            assert (tmp_path / "one").resolve() in data.path(i).resolve().parents
            assert data.path(i).read_bytes() == (tmp_path / "in/a.png").read_bytes() or data.name(i).endswith(".jpg")
    assert again(name, tmp_path / "two", found) == wanted


@pytest.mark.parametrize("name", BOTH)
def test_crowds_and_scores(tmp_path, name) -> None:
    image = save_image(tmp_path / "in" / "a.png", SIZE)
    record = record_of(image, DRAWN["touching borders"], [0, 1, 1], SIZE, crowds=[False, True, False])
    lost = write(name, tmp_path / "crowd", [(record, "all")])
    (data,) = read_again(tmp_path / "crowd").values()
    given = expected("a", record)
    assert objects(data) == given or (lost and (given - objects(data)).total() <= lost.total())

    record = record._replace(ignore=np.zeros(3, bool), scores=np.array([0.5, 0.25, 0.875]))
    lost = write(name, tmp_path / "score", [(record, "all")])
    if name in APART:
        with pytest.raises(DataError, match=r"predictions .* are no annotations"):
            read_again(tmp_path / "score")
        return
    (data,) = read_again(tmp_path / "score").values()
    assert objects(data) == expected("a", record)
    if not lost:
        assert _by_box(data.record(0, exact=True)) == _by_box(record)


def _by_box(record: Record) -> dict[tuple, float]:
    assert record.scores is not None
    return {tuple(box): score for box, score in zip(record.boxes.tolist(), record.scores.tolist(), strict=True)}


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=st.sampled_from([0, 1, 2, 9])),
    st.integers(0, 255),
)
def test_any_pixels(tmp_path_factory, name, labels, seed) -> None:
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(seed)
    image, bitmaps = save_image(folder / "in" / "a.png", labels.shape), layered(labels)
    record = record_of(image, bitmaps, rng.integers(0, 2, len(bitmaps)).tolist(), labels.shape)
    other = other_image(folder)
    lost = write(name, folder / "one", [(record, "all"), (other, "all")])
    found = read_again(folder / "one")
    (data,) = found.values()
    given, got = expected("a", record) + expected("b", other), objects(data)
    assert got == given or (given - got).total() <= lost.total()
    assert list(again(name, folder / "two", found).values()) == [got]


def test_the_drawn_holes_are_holes() -> None:
    assert counts_from_bitmap(DRAWN["a hole"][0])[1::2].sum() == 64 - 9
