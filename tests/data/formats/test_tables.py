"""Tables of objects: every value known by hand, and the same in both formats."""

import csv
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.formats import tables, writer
from tests.data.records import CATEGORIES, record, runs

PIXEL_COLUMNS = [
    "image", "id", "class", "score", "x", "y", "width", "height", "area", "centroid_x", "centroid_y", "perimeter",
    "major_axis", "minor_axis", "solidity",
]  # fmt: skip


def mask(y1, y2, x1, x2, size=(20, 30)):
    bitmap = np.zeros(size, bool)
    bitmap[y1:y2, x1:x2] = True
    return runs(bitmap)


def image(folder: Path, pixels: np.ndarray, name: str) -> Path:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return path


def table(folder: Path, *records, name="csv", split="all") -> list[dict[str, str]]:
    made = writer(name, folder, CATEGORIES)
    for one in records:
        made.add(one, split)
    made.close()
    with (folder / "objects.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_an_object(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4:7, 6:11] = (10, 20, 30)
    path = image(tmp_path, pixels, "a.png")
    given = record([mask(4, 7, 6, 11), mask(0, 1, 0, 1)], boxes=[[6, 4, 11, 7.5], [0, 0, 1, 1]], path=path)
    first, second = table(tmp_path, given._replace(scores=np.array([0.75, 0.5]), labels=np.array([1, 0])))
    assert list(first) == [*PIXEL_COLUMNS, "intensity_0", "intensity_1", "intensity_2"]
    assert (first["image"], first["id"], first["class"], first["score"]) == ("a.png", "1", "nucleus", "0.75")
    assert [float(first[name]) for name in ("x", "y", "width", "height")] == [6, 4, 5, 3.5]
    assert (first["area"], second["area"]) == ("15", "1")
    assert [float(first[name]) for name in ("centroid_x", "centroid_y", "perimeter", "solidity")] == [8, 5, 12, 1]
    assert float(first["major_axis"]) == pytest.approx(4 * 2**0.5, abs=1e-6)
    assert [float(first[f"intensity_{c}"]) for c in range(3)] == [10, 20, 30]
    assert (second["class"], second["major_axis"]) == ("cell", "0.0")


def test_sixteen_bits_keep_their_values_and_channels_may_differ(tmp_path: Path) -> None:
    deep = image(tmp_path, np.full((20, 30), 40000, np.uint16), "deep.png")
    grey = image(tmp_path, np.full((20, 30), 7, np.uint8), "grey.png")
    colour = image(tmp_path, np.full((20, 30, 3), 9, np.uint8), "colour.png")
    rows = table(tmp_path, *(record([mask(0, 2, 0, 2)], path=path, name=path.name) for path in (deep, grey, colour)))
    assert [float(row["intensity_0"]) for row in rows] == [40000, 7, 9]
    assert [row["intensity_2"] for row in rows] == ["", "", "9.0"]


def test_without_the_image_or_a_mask_the_rest_is_there(tmp_path: Path) -> None:
    other_size = image(tmp_path, np.zeros((5, 5), np.uint8), "small.png")
    none, small, box = table(
        tmp_path,
        record([mask(0, 2, 0, 2)], path=tmp_path / "none.png"),
        record([mask(0, 2, 0, 2)], path=other_size),
        record([None], boxes=[[1, 2, 3, 5]]),
    )
    assert "intensity_0" not in none
    assert none["area"] == small["area"] == "4"
    assert (box["area"], box["perimeter"], box["height"]) == ("", "", "3.0")
    assert "score" not in box


def test_intensities_that_are_not_known_are_counted(tmp_path: Path) -> None:
    made = writer("csv", tmp_path, CATEGORIES)
    for name in ("none.png", "neither.png"):
        made.add(record([mask(0, 2, 0, 2)], path=tmp_path / name))
    ((what, count),) = made.lost.items()
    assert count == 2
    assert what.startswith(f"mean intensities of an image (the first: {tmp_path / 'none.png'}: cannot be opened")


@pytest.mark.parametrize("most", [2**29, 100])
@pytest.mark.parametrize("page", [2, "max"])
def test_the_page_that_was_seen_is_measured(page, most, tmp_path: Path, monkeypatch) -> None:
    """At once, or window by window if the image is too large for that."""
    tifffile = pytest.importorskip("tifffile")
    stack = np.random.default_rng(0).integers(0, 60000, (3, 20, 30), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", compression="zlib")
    monkeypatch.setattr(tables, "_DECODED", most)
    seen = stack.max(axis=0) if page == "max" else stack[page - 1]
    rows = table(tmp_path, record([mask(4, 9, 6, 8), mask(0, 1, 0, 1)], path=tmp_path / "a.tif", page=page))
    assert [float(row["intensity_0"]) for row in rows] == [pytest.approx(seen[4:9, 6:8].mean()), seen[0, 0]]


def test_an_image_in_memory_is_measured(tmp_path: Path) -> None:
    (row,) = table(tmp_path, record([mask(0, 2, 0, 2)], image=np.full((20, 30, 1), 5, np.uint8)))
    assert row["intensity_0"] == "5.0"


def test_micrometres_where_the_image_states_the_size_of_its_pixels(tmp_path: Path, monkeypatch) -> None:
    sizes = {"a.png": (0.5, 0.5), "b.png": None, "c.png": (0.5, 0.25)}
    monkeypatch.setattr(tables, "_opened", lambda record: nullcontext((None, sizes[record.name], "")))
    square, none, oblong = table(tmp_path, *(record([mask(0, 4, 2, 6)], name=name) for name in sizes))
    assert float(square["area_um2"]) == 4
    assert float(square["perimeter_um"]) == float(square["perimeter"]) / 2 == 6
    assert float(square["centroid_x_um"]) == 1.75
    assert [square[name] for name in ("x_um", "width_um", "height_um")] == ["0.0", "2.0", "2.5"]
    assert (none["area_um2"], none["area"]) == ("", "16")
    assert (oblong["area_um2"], oblong["width_um"], oblong["height_um"]) == ("2.0", "1.0", "2.5")
    assert oblong["perimeter_um"] == oblong["major_axis_um"] == ""  # in no fixed direction


def test_crowds_are_counted_and_splits_named(tmp_path: Path) -> None:
    made = writer("csv", tmp_path, CATEGORIES)
    made.add(record([mask(0, 2, 0, 2)] * 2, ignore=np.array([True, False])), "train")
    made.add(record([mask(0, 2, 0, 2)]), "val")
    made.close()
    with (tmp_path / "objects.csv").open(newline="") as file:
        assert [row["split"] for row in csv.DictReader(file)] == ["train", "val"]
    assert made.lost["crowd"] == 1


def test_no_object_gives_a_table_without_rows(tmp_path: Path) -> None:
    assert table(tmp_path, record([])) == []
    assert (tmp_path / "objects.csv").read_text().strip() == "image,id,class,x,y,width,height"


def test_names_with_commas_and_lines_stay_whole(tmp_path: Path) -> None:
    (row,) = table(tmp_path, record([None], name='a,"b"\nc.png'))
    assert row["image"] == 'a,"b"\nc.png'


def test_a_table_that_is_not_closed_leaves_nothing(tmp_path: Path) -> None:
    made = writer("csv", tmp_path, CATEGORIES)
    made.add(record([None]))
    assert not (tmp_path / "objects.csv").exists()


def test_parquet_holds_the_same_with_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    given = [record([mask(0, 3, 0, 4)], scores=np.array([0.25])), record([None], name="b.png")]
    rows = table(tmp_path, *given)
    made = writer("parquet", tmp_path, CATEGORIES)
    for one in given:
        made.add(one)
    made.close()
    found = parquet.read_table(tmp_path / "objects.parquet")
    assert found.column_names == list(rows[0])
    assert {str(field.type) for field in found.schema} == {"string", "int64", "double"}
    for row, other in zip(rows, found.to_pylist(), strict=True):
        values = {name: "" if value is None else str(value) for name, value in other.items()}
        assert values == row | {name: str(float(row[name])) for name in ("area",) if row[name]}


def test_parquet_without_objects(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    writer("parquet", tmp_path, CATEGORIES).close()
    assert parquet.read_table(tmp_path / "objects.parquet").num_rows == 0
