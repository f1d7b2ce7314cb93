"""Each verb does its work, from the command line, on a tiny scene."""

import json
from pathlib import Path

import pytest
from PIL import Image

from maskrcnn.cli import main as cli
from tests.scenes import NONE, SMALL, TWO_APART, write_coco
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("run") / "model.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path, {"a.png": TWO_APART, "b.png": NONE})
    write_coco(tmp_path, {"c.png": SMALL}, name="val.json")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_check_tells_both_files(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", data, "--verify")
    assert code == 0
    assert "train.json" in out
    assert "val.json" in out
    assert "brick" in out


@pytest.mark.parametrize("broken", [False, True])
def test_check_stops_where_train_would_after_dividing(broken, tmp_path: Path, capsys) -> None:
    """All objects may be in the image that is held out, or it may be the one that cannot be read."""
    found = []
    for chosen in range(4):
        images = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in range(4)]
        square = {"category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]]}
        objects = [square | {"id": i, "image_id": i} for i in range(4) if broken or i == chosen]
        for i in range(4):
            Image.new("L", (32, 32)).save(tmp_path / f"{i}.png")
        if broken:
            (tmp_path / f"{chosen}.png").write_bytes(b"")
        path = tmp_path / "data.json"
        path.write_text(json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}))
        code, _, err = run(capsys, "check", path, "--model", "R-18-FPN-tiny")
        found.append((code, err.partition("data.json: ")[2][:34]))
    words = "none of its 1 val images can be re" if broken else "no image has an object, so there i"
    assert sorted(found) == [(0, "")] * 3 + [(2, words)]


def test_check_of_keypoints_where_there_are_none(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "check", data, "--keypoints")
    assert code == 2
    assert "train.json: no category has keypoints" in err


def test_check_opens_every_image(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images" / "b.png").write_text("no image")
    code, out, _ = run(capsys, "check", data, "--verify")
    assert code == 0
    assert "images that cannot be read 1" in out
    code, _, err = run(capsys, "check", data, "--verify", "--strict")
    assert code == 2
    assert "b.png" in err
    assert err.count("\n") == 1


def test_info_of_a_name_and_of_a_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "R-50-FPN")
    assert code == 0
    assert "44.3 million" in out or "44.4 million" in out  # torchvision's, with 91 rows for classes: 44.4
    code, out, _ = run(capsys, "info", checkpoint)
    assert code == 0
    assert "3  brick" in out
    assert "0.25" in out
    code, out, _ = run(capsys, "info", checkpoint, "--settings")
    assert "max_detections = 20" in out
    code, _, err = run(capsys, "info", "R-5000-FPN")
    assert code == 2
    assert "R-50-FPN" in err


def test_predict_saves_overlays_and_rows(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "out"
    (data / "more").mkdir()
    Image.fromarray(SMALL.pixels).save(data / "more" / "a.png")
    code, told, _ = run(capsys, "predict", checkpoint, data / "images", data / "more" / "a.png", "--out", out)
    assert code == 0
    overlays = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert overlays == ["images/a.png", "images/b.png", "images/c.png", "more/a.png"]
    assert sorted(path.name for path in out.glob("*.json*")) == ["manifest.json", "results.json", "results.jsonl"]
    rows = json.loads((out / "results.json").read_text())
    assert {row["image_id"] for row in rows} == {"images/a", "images/b", "images/c", "more/a"}
    assert {row["category_id"] for row in rows} <= {3, 7, 20}
    assert "4 images" in told


def test_predict_saves_every_format_side_by_side(checkpoint: Path, data: Path, capsys) -> None:
    out = data / "out"
    save = "overlay,coco,coco-dataset,yolo,voc,cvat,masks,labelme,geojson,csv,parquet"
    pytest.importorskip("pyarrow")
    words = ("predict", checkpoint, data / "images", "--out", out, "--save", save, "--max-detections", "1")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    names = {path.name for path in out.iterdir()}
    assert names == {
        "a.png", "b.png", "c.png", "manifest.json", "results.jsonl", "results.json", "objects.csv", "objects.parquet",
        "coco-dataset", "yolo", "voc", "cvat", "masks", "labelme", "geojson",
    }  # fmt: skip
    rows = json.loads((out / "results.json").read_text())
    found = json.loads((out / "coco-dataset" / "annotations.json").read_text())
    assert [row["score"] for row in found["annotations"]] == [row["score"] for row in rows]
    assert [row["segmentation"] for row in found["annotations"]] == [row["segmentation"] for row in rows]
    assert len((out / "objects.csv").read_text().splitlines()) == 1 + len(rows)
    for form in (
        "coco-dataset/annotations.json",
        "yolo",
        "voc",
        "cvat",
        "masks",
        "labelme",
    ):  # they are data sets again
        code, told, err = run(capsys, "check", out / form, "--images", data / "images")
        assert code in (0, 2), err
        assert "masks" in told or "nothing to learn" in told, (form, err)


def test_predict_never_touches_what_was_corrected(checkpoint: Path, data: Path, capsys) -> None:
    words = (
        "predict",
        checkpoint,
        data / "images",
        "--out",
        data / "out",
        "--save",
        "geojson",
        "--max-detections",
        "1",
    )
    assert run(capsys, *words)[0] == 0
    assert run(capsys, *words, "--overwrite")[0] == 0  # replaces the first
    corrected = data / "out" / "geojson" / "a.geojson"
    corrected.write_text("{}")
    code, _, err = run(capsys, *words, "--overwrite")
    assert code == 2
    assert "changed since, such as a.geojson" in err
    assert err.count("\n") == 1
    assert corrected.read_text() == "{}"


def test_results_beside_the_images_do_not_overwrite_what_is_there(checkpoint: Path, data: Path, capsys) -> None:
    own = data / "images" / "objects.csv"
    own.write_text("mine")
    words = ("predict", checkpoint, data / "images", "--out", data / "images", "--save")
    code, _, err = run(capsys, *words, "csv")
    assert code == 2
    assert "where csv could overwrite files" in err
    assert run(capsys, *words, "geojson", "--max-detections", "1")[0] == 0  # which has a folder of its own
    assert own.read_text() == "mine"


def test_predict_and_a_bad_image(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images" / "b.png").write_text("no image")
    words = ("predict", checkpoint, data / "images", "--out", data / "out", "--save", "coco")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "b.png" in err
    assert err.count("\n") == 1
    rows = json.loads((data / "out" / "results.json").read_text())
    assert {row["image_id"] for row in rows} == {"a", "c"}  # the good ones are not lost
    code, told, err = run(capsys, *words, "--skip")
    assert code == 0
    assert "b.png" in err
    assert "2 of 3 images were predicted before; going on with the other 1" in told
    assert json.loads((data / "out" / "results.json").read_text()) == rows
    code, _, err = run(capsys, "predict", checkpoint, data / "images" / "b.png", "--out", data / "none")
    assert code == 2
    assert list((data / "none").iterdir()) == []


def test_overlays_never_overwrite_the_images(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (data / "images").iterdir()}
    code, _, err = run(capsys, "predict", checkpoint, data / "images", "--out", data / "images" / ".." / "images")
    assert code == 2
    assert "overwrite" in err
    assert {path: path.read_bytes() for path in (data / "images").iterdir()} == before


def test_predict_goes_on_and_divides_its_work(checkpoint: Path, data: Path, capsys, monkeypatch) -> None:
    """A list names images, in any order; a shard takes every second of them; a mended image is not another command."""
    monkeypatch.chdir(data)
    listed = data / "list.txt"
    listed.write_text("images/c.png\nimages/b.png\r\n\nimages/a.png\nimages/a.png\n")
    b = Path("images/b.png")
    good = b.read_bytes()
    b.write_text("no image")
    words = ("predict", checkpoint, "--list", listed, "--max-detections", "1", "--save", "coco,csv")
    code, told, _ = run(capsys, *words, "--shard", "1/2", "--out", "first", "--quiet")
    assert (code, told) == (0, "")
    rows = json.loads(Path("first/results.json").read_text())
    assert {row["image_id"] for row in rows} == {"a", "c"}
    assert run(capsys, *words, "--shard", "2/2", "--out", "first")[0] == 2  # another command
    assert run(capsys, *words, "--out", "all")[0] == 2
    b.write_bytes(good)
    code, told, _ = run(capsys, *words, "--out", "all")
    assert code == 0
    assert "all: 2 of 3 images were predicted before; going on with the other 1" in told
    assert [row["image_id"] for row in json.loads(Path("all/results.json").read_text())] == ["a", "b", "c"]
    code, told, _ = run(capsys, *words, "--out", "all")
    assert (code, told) == (0, "all: 3 of 3 images were predicted before; --overwrite starts anew\n")


def test_predict_says_what_is_in_subfolders(checkpoint: Path, data: Path, capsys, caplog) -> None:
    deeper = data / "images" / "more"
    deeper.mkdir()
    Image.fromarray(SMALL.pixels).save(deeper / "a.png")
    words = ("predict", checkpoint, data / "images", "--max-detections", "1", "--out", data / "images" / "out")
    assert run(capsys, *words)[0] == 0
    assert "1 image in its subfolders not taken; --recursive" in caplog.text
    code, told, _ = run(capsys, *words, "--recursive", "--overwrite")  # the overlays in out/ are no images
    assert code == 0
    assert "4 images" in told
    assert (data / "images" / "out" / "more" / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--shard", "3/2"), "such as 2/8"),
        (("--list", "none.txt"), "none.txt: the list of images cannot be read"),
        (("--save", "svg"), "svg"),
        (("--batch", "0"), "batch"),
        (("--precision", "fp8"), "fp8"),
        (("--score-threshold", "2"), "between 0 and 1"),
        (("--device", "cuda:99"), "no device"),
        (("--tta-views", "1,flop"), "flop"),
        (("--tta-views", "0,flip"), "between"),
    ],
)
def test_predict_and_impossible_arguments(
    words: tuple[str, ...], told: str, checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "predict", checkpoint, data / "images", "--out", data / "out", *words)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1


def test_evaluate_writes_and_prints_the_metrics(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data / "measured"
    words = ("--out", out, "--workers", "0", "--precision", "fp32", "--boundary")
    code, told, _ = run(capsys, "evaluate", checkpoint, data, *words)
    assert code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"boundary {metrics['boundary']['AP']:.3f}".replace(" ", "") in told.replace(" ", "")
    assert "Kinds of error" in (out / "report.html").read_text(encoding="utf-8")
    assert metrics["images"] == 1
    assert f"{metrics['mask']['AP']:.3f}" in told


def test_evaluate_takes_a_new_folder_unless_one_is_named(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("evaluate", checkpoint, data / "train.json", "--workers", "0")
    assert [run(capsys, *words)[0] for _ in range(2)] == [0, 0]
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("runs/*/*")}
    left = ("matches.npz", "metrics.json", "report.html", "settings.json")
    assert names == {f"runs/evaluate-{n}/{name}" for n in (1, 2) for name in left}
    (tmp_path / "a_run").mkdir()
    (tmp_path / "a_run/run.json").write_text("{}")
    for out, words_of_error in ((tmp_path / "m.json", "is a folder"), (tmp_path / "a_run", "the folder of a run")):
        code, _, err = run(capsys, *words, "--out", out)
        assert code == 2
        assert words_of_error in err
        assert err.count("\n") == 1


def test_propose_writes_what_train_reads(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "p.safetensors"
    code, told, _ = run(capsys, "propose", checkpoint, data, "--out", out, "--workers", "0", "--precision", "fp32")
    assert code == 0
    assert "of 2 objects AR 0." in told
    words = ("train", data, "--model", "R-18-FPN-tiny", "--out", data / "run", "--set", "train.workers=0")
    code, _, err = run(capsys, *words, "--proposals", out)
    assert code == 2
    assert "made by a network with other settings" in err
    code, _, err = run(capsys, *words, "--stages", "heads,rpn")
    assert code == 2
    assert "in this order" in err


def test_evaluate_notes_what_it_could_not_read(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((data / "train.json").read_text())
    content["annotations"][0]["category_id"] = 99
    (data / "train.json").write_text(json.dumps(content))
    (data / "images" / "b.png").write_text("no image")
    words = ("evaluate", checkpoint, data / "train.json", "--out", data / "measured", "--workers", "0")
    code, told, _ = run(capsys, *words)
    assert code == 0
    assert "note: train.json: 1 annotation dropped" in told
    assert "note: images that could not be read: 1" in told
    code, _, err = run(capsys, *words, "--strict")
    assert code == 2
    assert "annotation 1" in err


def test_evaluate_with_more_views(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One view, not mirrored, measures what none measures; and every image has its two views, read by a worker."""
    words = ("evaluate", checkpoint, data / "train.json", "--precision", "fp32", "--out", data / "measured")
    figures = []
    for views in ((), ("--tta-views", "1"), ("--tta-views", "0.5,1,flip", "--workers", "1", "--batch", "2")):
        code, _, err = run(capsys, *words, "--workers", "0", *views)
        assert (code, err) == (0, "")
        figures.append(json.loads((data / "measured/metrics.json").read_text()))
    assert figures[1]["box"] == pytest.approx(figures[0]["box"], nan_ok=True)
    assert figures[1]["predictions"] == figures[0]["predictions"]
    assert figures[2]["tta"] == {"scales": [1.0, 0.5], "flip": True}
    assert figures[2]["predictions"] > 0


@pytest.mark.parametrize(
    "words", [("--max-detections", "0"), ("--batch", "0"), ("--workers", "-1"), ("--device", "cuda:99")]
)
def test_evaluate_and_impossible_arguments(
    words: tuple[str, ...], checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "evaluate", checkpoint, data, "--out", data / "measured", *words)
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["predict", "evaluate", "propose"])
def test_a_file_that_is_no_checkpoint(verb: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, verb, data / "train.json", data)
    assert code == 2
    assert "train.json" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [("train", "nowhere"), ("check", "nowhere"), ("train", "nowhere", "--model", "R-5")])
def test_data_or_model_that_is_not_there(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "nowhere" in err or "R-5" in err
    assert err.count("\n") == 1


def test_check_writes_a_page(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", data, "--out", data / "page", "--set", "train.augment.crop=64")
    assert code == 0
    assert f"{data / 'page' / 'report.html'} shows" in out
    text = (data / "page" / "report.html").read_text(encoding="utf-8")
    assert "brick" in text
    assert "train.optimizer=adamw" in text
