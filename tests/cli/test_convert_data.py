"""`convert-data`: from a data set to another format, and what it says and refuses."""

import csv
import json
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.cli import main as cli
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import READERS, WRITERS, ReadOptions, find, read_dataset
from maskrcnn.errors import ConfigError, DataError
from tests.scenes import NONE, SMALL, TWO_APART, Scene, Thing, write_coco

BRICK = Scene((32, 32), (Thing("brick", (10, 12, 22, 20)),))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_coco(folder, {"a.png": TWO_APART, "b.png": NONE})
    write_coco(folder, {"c.png": SMALL}, name="val.json")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())


def test_splits_stay_and_objects_are_the_same(data: Path, tmp_path: Path, capsys) -> None:
    code, told, _ = run(capsys, "convert-data", data, tmp_path / "out", "--to", "geojson")
    assert code == 0
    assert "geojson, 3 images (2 train, 1 val), 3 objects" in told
    assert written(tmp_path / "out") == ["train/a.geojson", "train/b.geojson", "val/c.geojson"]
    features = json.loads((tmp_path / "out" / "train" / "a.geojson").read_text())["features"]
    brick = features[0]
    assert brick["properties"]["classification"]["name"] == "brick"
    assert sorted(brick["geometry"]["coordinates"][0][:-1]) == [[4, 8], [4, 20], [24, 8], [24, 20]]


def test_one_file_has_no_split(data: Path, tmp_path: Path) -> None:
    done = maskrcnn.convert_data(data / "train.json", tmp_path / "out", to="geojson")
    assert written(tmp_path / "out") == ["a.geojson", "b.geojson"]
    assert (done.images, done.objects) == ({"all": 2}, 2)


def test_again_replaces_and_never_what_others_wrote(data: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    maskrcnn.convert_data(data, out, to="geojson")
    maskrcnn.convert_data(data / "val.json", out, to="geojson")
    assert written(out) == ["c.geojson"]
    before = (data / "train.json").read_bytes()
    code, _, err = run(capsys, "convert-data", data, data, "--to", "geojson")
    assert code == 2
    assert "holds 5 files that were not written by maskrcnn" in err
    assert (data / "train.json").read_bytes() == before


def test_a_split_by_groups_is_written(tmp_path: Path, capsys) -> None:
    path = write_coco(tmp_path / "data", {f"s{slide}_{crop}.png": SMALL for slide in range(6) for crop in range(2)})
    words = ("convert-data", path, tmp_path / "out", "--to", "csv", "--split", "0.6,0.2,0.2", "--group-by", r"s\d+")
    code, told, _ = run(capsys, *words, "--seed", "1")
    assert code == 0
    assert "12 images (8 train, 2 val, 2 test)" in told
    assert "divided by groups" in told
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        slides = {(row["image"].split("_")[0], row["split"]) for row in csv.DictReader(file)}
    assert len(slides) == 6


def test_where_the_images_stay_is_said(data: Path, tmp_path: Path, capsys) -> None:
    code, told, _ = run(capsys, "convert-data", data, tmp_path / "out", "--to", "coco")
    assert code == 0
    assert f"the images stay in {data / 'images'}: name it with --images" in told
    code, told, _ = run(capsys, "convert-data", data, tmp_path / "copy", "--to", "coco", "--images", "copy")
    assert code == 0
    assert "the images stay" not in told
    code, _, err = run(capsys, "check", tmp_path / "copy")
    assert code == 0, err


BOTH = [name for name in WRITERS if name in READERS]


@pytest.mark.parametrize("to", BOTH)
@pytest.mark.parametrize("layout", ["one folder", "a folder for each split", "no split"])
def test_images_that_stay_are_found_again(to: str, layout: str, tmp_path: Path) -> None:
    """With the folder that is named; two splits may have images of one name, and a folder images of other data."""
    scenes = {name: scene._replace(things=tuple(t for t in scene.things if t.kind == "brick")) for name, scene in
              {"a.png": TWO_APART, "b.png": NONE, "sub/c.png": TWO_APART}.items()}  # fmt: skip
    data, held = tmp_path / "data", {"a.png" if layout == "a folder for each split" else "d.png": BRICK}
    (data / "images" / "sub").mkdir(parents=True)
    if layout == "a folder for each split":
        for name, part in (("train", scenes), ("valid", held)):
            (data / name / "images" / "sub").mkdir(parents=True)
            write_coco(data / name, part, "_annotations.coco.json")
    else:
        write_coco(data, scenes)
        write_coco(data, held, "val.json")
    place = data / "train.json" if layout == "no split" else data
    for path in data.rglob("*.json"):
        path.write_text(path.read_text().replace('"brick"', '"car"'))  # which Cityscapes has
    before = {split: read_dataset(source) for split, source in find(place).items()}
    done = maskrcnn.convert_data(place, tmp_path / "out", to=to)
    assert str(done.folder) in "\n".join(done.describe())
    found = find(tmp_path / "out", ReadOptions(done.folder)).items()
    after = {split: read_dataset(source, done.folder) for split, source in found}
    assert list(map(files_and_objects, after.values())) == list(map(files_and_objects, before.values()))


def files_and_objects(data: Dataset) -> dict[Path, list[list[float]]]:
    records = map(data.record, range(len(data)))
    return {record.path.resolve(): sorted(record.boxes.tolist()) for record in records}


@pytest.mark.parametrize("to", ["cityscapes", "cvat", "voc", "yolo"])
def test_images_that_stay_must_have_names_of_their_own(to: str, tmp_path: Path) -> None:
    path = write_coco(tmp_path / "data", {"a.png": TWO_APART, "a.bmp": SMALL})
    with pytest.raises(ConfigError, match=rf"a\.png and a\.bmp .* which {to} cannot tell apart there; .*--images copy"):
        maskrcnn.convert_data(path, tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()
    assert maskrcnn.convert_data(path, tmp_path / "out", to=to, images="copy").folder is None
    assert len(read_dataset(tmp_path / "out")) == 2


def test_images_without_a_folder_in_common_must_be_copied(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.path.commonpath", lambda _: "/")
    for name in ("train", "valid"):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_coco(tmp_path / "data" / name, {f"{name}.png": SMALL}, "_annotations.coco.json")
    with pytest.raises(ConfigError, match=r"train.*valid.*names one folder; convert with --images copy"):
        maskrcnn.convert_data(tmp_path / "data", tmp_path / "out", to="coco")


def test_data_that_is_divided_is_not_divided_again(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is divided already into train, val"):
        maskrcnn.convert_data(data, tmp_path / "out", to="csv", split="0.5,0.5")
    assert not (tmp_path / "out").exists()


def test_what_the_format_cannot_hold_is_counted(data: Path, tmp_path: Path, capsys) -> None:
    content = json.loads((data / "train.json").read_text())
    content["categories"][0] |= {"keypoints": ["top"], "skeleton": []}
    content["annotations"][0] |= {"keypoints": [5, 9, 2]}
    (data / "train.json").write_text(json.dumps(content))
    code, told, _ = run(capsys, "convert-data", data / "train.json", tmp_path / "out", "--to", "geojson")
    assert code == 0
    assert "geojson cannot hold everything; left out or simplified: keypoints of an object (1)" in told


def test_categories_of_the_splits_are_joined_by_name(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "val.json").read_text())
    content["categories"] = [{"id": 3, "name": "wave"}, {"id": 4, "name": "stone"}]
    content["annotations"][0]["category_id"] = 3
    (data / "val.json").write_text(json.dumps(content))
    maskrcnn.convert_data(data, tmp_path / "out", to="csv")
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        assert [(row["image"], row["class"]) for row in csv.DictReader(file)] == [
            ("a.png", "brick"), ("a.png", "leaf"), ("c.png", "wave")
        ]  # fmt: skip


def test_dropped_records_are_told(data: Path, tmp_path: Path, capsys) -> None:
    content = json.loads((data / "train.json").read_text())
    content["annotations"][0] = {"id": 1, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]}
    (data / "train.json").write_text(json.dumps(content))
    code, told, _ = run(capsys, "convert-data", data, tmp_path / "out", "--to", "csv")
    assert code == 0
    assert "annotation of an unknown image" in told
    with pytest.raises(DataError, match="unknown image"):
        maskrcnn.convert_data(data, tmp_path / "out", to="csv", strict=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--to", "labelm3d"), "no format 'labelm3d'"),
        (("--to", "csv", "--images", "move"), "refer, copy or link, not 'move'"),
        (("--to", "csv", "--split", "80,20"), "such as 0.8,0.1,0.1"),
        (("--to", "csv", "--group-by", "a"), "needs --split"),
        (("--to", "csv", "--unlabelled", "maybe"), "background or skip"),
    ],
)
def test_impossible_arguments(words, told, data: Path, tmp_path: Path, capsys) -> None:
    code, _, err = run(capsys, "convert-data", data, tmp_path / "out", *words)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_format_must_be_named(data: Path, tmp_path: Path, capsys) -> None:
    code, _, err = run(capsys, "convert-data", data, tmp_path / "out")
    assert code == 2
    assert "--to" in err
