"""Files of a video: playable with the drawn pixels at their times, tables with frame, time and id, whatever happens."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.categories import Category
from maskrcnn.errors import ConfigError
from maskrcnn.ops.rle import counts_from_bitmap, string_from_counts
from maskrcnn.ops.runs import decode
from maskrcnn.results import Result
from maskrcnn.video.reading import frames
from maskrcnn.video.writing import VideoSaver

CATEGORIES = (Category(3, "brick"), Category(7, "leaf"))
SIZE = (641, 641)  # large enough not to be enlarged, and odd
NAMES = ["overlay", "coco", "csv", "mots"]


def result(frame: int, time: float) -> Result:
    """Two objects that share 10 x 20 pixels, on green ground; the better one is on the left."""
    codes = np.empty(2, dtype=object)
    for i, columns in enumerate((slice(100, 120), slice(110, 130))):
        bitmap = np.zeros(SIZE, dtype=bool)
        bitmap[50:70, columns] = True
        codes[i] = string_from_counts(counts_from_bitmap(bitmap))
    image = np.empty((*SIZE, 3), np.uint8)
    image[:] = (60, 180, 75)
    return Result(
        size=SIZE,
        boxes=np.array([[100, 50, 120, 70], [110, 50, 130, 70]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        labels=np.array([3, 7]),
        codes=codes,
        categories=CATEGORIES,
        path=Path("clip.mp4"),
        image=image,
        image_id=frame,
        frame=frame,
        time=time,
        ids=np.array([12, 5]),
    )


def test_all_formats(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 1.0]
    with VideoSaver(tmp_path / "out.mp4", NAMES) as saver:
        for number, time in enumerate(times, 1):
            saver.add(result(number, time))
    assert [file.name for file in saver.files] == ["out.mp4", "out.json", "out.csv", "out.txt"]

    drawn = list(frames(tmp_path / "out.mp4"))
    assert [frame.time for frame in drawn] == pytest.approx(times, abs=1e-3)
    assert drawn[0].pixels.shape == (642, 642, 3)
    assert np.abs(drawn[-1].pixels[500, 500].astype(int) - (60, 180, 75)).max() <= 4
    expected = np.asarray(result(4, 1.0).overlay())
    assert np.abs(drawn[-1].pixels[:641, :641].astype(int) - expected).mean() < 2

    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(row["image_id"], row["time"], row["track_id"]) for row in rows[:3]] == [
        (1, 0, 12),
        (1, 0, 5),
        (2, 0.1, 12),
    ]
    assert rows[0]["bbox"] == [100, 50, 20, 20]
    assert rows[0]["segmentation"]["counts"].encode() == result(1, 0).codes[0]

    table = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(table) == 8
    first = "1,0.0,12,brick,0.75,100.0,50.0,20.0,20.0,400"
    assert ",".join(table[0].values()) == first
    assert list(table[0]) == ["frame", "time", "id", "class", "score", "x", "y", "width", "height", "area"]

    lines = [line.split() for line in (tmp_path / "out.txt").read_text().splitlines()]
    assert [line[:5] for line in lines[:2]] == [["1", "12", "3", "641", "641"], ["1", "5", "7", "641", "641"]]
    areas = decode([line[5].encode() for line in lines[:2]]).areas
    assert areas.tolist() == [400, 200]  # the pixels that both have are the better one's


def test_what_was_added_is_complete_after_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoSaver(tmp_path / "clip", NAMES) as saver:
            saver.add(result(1, 0.0))
            saver.add(result(2, 0.04))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(list(frames(tmp_path / "clip.mp4"))) == 2
    assert len(json.loads((tmp_path / "clip.json").read_text())) == 4
    assert len((tmp_path / "clip.csv").read_text().splitlines()) == 5


def test_without_ids_the_column_is_empty_and_mots_is_refused(tmp_path: Path) -> None:
    plain = replace(result(1, 0.0), ids=None)
    with VideoSaver(tmp_path / "a", ["csv", "coco"]) as saver:
        saver.add(plain)
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("1,0.0,,brick")
    assert "track_id" not in json.loads((tmp_path / "a.json").read_text())[0]
    with pytest.raises(ConfigError, match="mots needs ids"), VideoSaver(tmp_path / "b", ["mots"]) as saver:
        saver.add(plain)


def test_the_video_itself_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"a\.mp4 would overwrite the video itself"):
        VideoSaver(tmp_path / "a.mp4", ["overlay"], inputs=[tmp_path / "a.mp4"])
    assert (tmp_path / "a.mp4").read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="saved as overlay, coco, csv, mots; not as labelme"):
        VideoSaver(tmp_path / "b", ["labelme"])
