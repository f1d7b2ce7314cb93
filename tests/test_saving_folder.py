"""A folder of results that survives: kills, a full disk, other commands, and files of the user."""

import errno
import json
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.errors import ConfigError, MaskRCNNError
from maskrcnn.results import Result
from maskrcnn.saving.folder import PredictionFolder
from maskrcnn.saving.journal import Journal, from_line, to_line
from maskrcnn.saving.names import mirrored

CATEGORIES = (Category(3, "cat", keypoints=("nose", "tail")), Category(17, "dog"))
FORMATS = ("overlay", "coco", "csv", "geojson", "via", "cvat", "labelstudio", "yolo")


def result(path: Path, column: int = 2) -> Result:
    keypoints = np.array([[[0, 0, 0], [0, 0, 0]], [[20.5, 30.5, 0.5], [21.5, 31.5, -2.0]]], np.float32)
    ring = np.ones((2, 28, 28), np.float32)
    ring[0, 9:19, 9:19] = 0.2
    return Result(
        size=(40, 60),
        boxes=np.array([[column, 2.3, 30, 30], [31, 5, 59, 19]], np.float32),
        scores=np.array([0.7, 0.1], np.float32),
        labels=np.array([17, 3]),
        small_masks=ring,
        keypoints=keypoints,
        keypoint_shift=0.5,
        categories=CATEGORIES,
        path=path,
    )


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "in" / folder / f"{i}.png" for folder in "ab" for i in range(3)]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (90, 80, 70)).save(path)
    return made


def folder(out: Path, paths: list[Path], model: str = "1", **more) -> PredictionFolder:
    settings = {"--save": ",".join(FORMATS), "--tile": "auto"} | more.pop("settings", {})
    return PredictionFolder(out, FORMATS, CATEGORIES, paths, model=model, settings=settings, **more)


def predict(opened: PredictionFolder, results: dict[Path, Result]) -> None:
    with opened:
        for path in opened.pending():
            opened.add(results[path])
        opened.assemble()


def files(out: Path) -> dict[str, bytes]:
    """All but the lists of files, which have times."""
    found = (path for path in out.rglob("*") if path.is_file() and path.name != ".maskrcnn.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def killed(work: Iterator[None], after: int) -> None:
    """Does `work` in another process, which kills itself after so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads: the child uses none
        child = os.fork()
    if not child:
        for _ in range(after):
            next(work, None)
        os.kill(os.getpid(), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert os.WTERMSIG(ended[1]) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in the middle of its work")
def test_kills_change_no_byte(tmp_path: Path, paths: list[Path]) -> None:
    lines = {path: to_line("x", result(path, i), outlines=True) for i, path in enumerate(paths)}
    results = {path: from_line(line, path, CATEGORIES) for path, line in lines.items()}
    predict(folder(tmp_path / "whole", paths), results)

    def work() -> Iterator[None]:
        with folder(tmp_path / "killed", paths) as opened:
            for path in opened.pending():
                opened.add(results[path])
                yield
            opened.assemble(lambda: os.kill(os.getpid(), signal.SIGKILL))

    killed(work(), 3)
    with (tmp_path / "killed" / "results.jsonl").open("ab") as file:
        file.write(b'{"index": 3, "image_id": "a/3", "si')  # a line that was being written
    killed(work(), 4)  # while the files that hold all results are written
    assert (tmp_path / "killed" / ".geojson.part").exists()
    again = folder(tmp_path / "killed", paths)
    predict(again, {})
    assert again.before == 6
    before, after = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert before.keys() == after.keys()
    assert {"a/0.png", "b/0.png", "geojson/a/0.geojson", "yolo/labels/b/2.txt", "results.json"} < before.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert not list((tmp_path / "killed").glob(".*"))


def test_a_line_says_all_that_is_saved(tmp_path: Path) -> None:
    one = result(tmp_path / "one.png")
    again = from_line(json.loads(json.dumps(to_line("one", one, outlines=True))), tmp_path / "one.png", CATEGORIES)
    assert again.to_coco() == one.to_coco()
    ours, theirs = again.record(), one.record()
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    assert ours.scores is not None
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.keypoints, theirs.keypoints)
    assert str(ours.shapes) == str(theirs.shapes)
    none = from_line(to_line("one", one.select([]), outlines=True), tmp_path / "one.png", CATEGORIES)
    assert (len(none), none.rle, none.outlines) == (0, [], [])


def test_another_command_is_told_what_differs(tmp_path: Path, paths: list[Path]) -> None:
    out, results = tmp_path / "out", {path: result(path) for path in paths}
    predict(folder(out, paths), results)
    before = files(out)
    os.utime(paths[2], (1, 1))
    for other, words in (
        (folder(out, paths, model="2"), "the model is another one"),
        (folder(out, paths, settings={"--tile": "off"}), "--tile was auto and is off"),
        (folder(out, paths[1:]), f"{paths[0]} is not among them any more"),
        (folder(out, paths), f"{paths[2]} is changed since"),
    ):
        with pytest.raises(ConfigError, match="--overwrite") as error, other:
            pass
        assert words in str(error.value)
    assert files(out) == before
    predict(folder(out, paths[:3], overwrite=True), results)
    assert sorted(path.name for path in out.glob("*.png")) == ["0.png", "1.png", "2.png"]  # of one folder now
    assert not (out / "a").exists()
    assert not (out / "b").exists()


def test_nothing_of_the_user_is_overwritten(tmp_path: Path, paths: list[Path]) -> None:
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "1.png").write_text("mine")
    with pytest.raises(ConfigError, match=r"1 files that would be overwritten, such as 1\.png"), folder(out, paths):
        pass
    assert files(out) == {"a/1.png": b"mine"}
    image = paths[0].read_bytes()
    for overwrite in (False, True):
        with (
            pytest.raises(ConfigError, match="overwrite the image"),
            folder(tmp_path / "in", paths, overwrite=overwrite),
        ):
            pass
    assert paths[0].read_bytes() == image
    predict(folder(out, paths, overwrite=True), {path: result(path) for path in paths})
    corrected = out / "geojson" / "a" / "0.geojson"
    corrected.write_text("{}")
    with pytest.raises(ConfigError, match="changed since"), folder(out, paths, overwrite=True):
        pass
    assert corrected.read_text() == "{}"


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, paths: list[Path], monkeypatch) -> None:
    results = {path: result(path) for path in paths}
    room = [3]

    def save(self: Image.Image, *given: object, **more: object) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saving(self, *given, **more)  # type: ignore[arg-type]

    saving = Image.Image.save
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save)
        with pytest.raises(MaskRCNNError, match="is full; 3 of 6 images are finished and kept") as error:
            predict(folder(tmp_path / "out", paths), results)
    assert error.value.exit_code == 1
    opened = folder(tmp_path / "out", paths)
    predict(opened, results)
    assert opened.before == 3
    predict(folder(tmp_path / "whole", paths), results)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path, paths: list[Path]) -> None:
    with folder(tmp_path / "out", paths) as opened:
        opened.add(result(paths[0]))
        with pytest.raises(ConfigError, match="another process"), folder(tmp_path / "out", paths):
            pass
    with pytest.raises(ConfigError, match=r"cannot be written"), folder(paths[0] / "out", paths):
        pass


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch) -> None:
    journal = Journal(tmp_path / "results.jsonl", CATEGORIES)
    journal.add(0, "a", result(tmp_path / "a.png"), outlines=False)
    size = (tmp_path / "results.jsonl").stat().st_size

    class Full:
        def __init__(self) -> None:
            self.file = journal._file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, data: memoryview) -> int:
            if len(data) < 100:
                raise OSError(errno.ENOSPC, "full")
            return self.file.write(data[:-50])

    monkeypatch.setattr(journal, "_file", Full())
    with pytest.raises(OSError, match="full"):
        journal.add(1, "b", result(tmp_path / "b.png"), outlines=False)
    assert (tmp_path / "results.jsonl").stat().st_size == size
    assert len(journal) == 1
    journal.close()


def test_names_mirror_the_folders_below_the_common_one() -> None:
    def named(*paths: str) -> list[str]:
        return mirrored([Path("/d") / path for path in paths])

    assert named("a/x.png", "a/y.png") == ["x", "y"]
    assert named("a/x.png", "b/x.png") == ["a/x", "b/x"]
    assert named("x.png", "a/b/x.png") == ["x", "a/b/x"]
    assert named("a/x.png", "a/x.jpg", "a/X.tif", "a/x-2.png") == ["x", "x-2", "X-3", "x-2-2"]
