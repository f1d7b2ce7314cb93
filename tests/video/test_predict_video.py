"""`Predictor` and `maskrcnn predict` on a drawn clip."""

import json
from pathlib import Path

import numpy as np
import pytest

import maskrcnn
from maskrcnn.cli.main import main
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.video.reading import frames
from tests.tiny import write_tiny_checkpoint
from tests.video.clips import drawn, write_clip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", drawn([0, 4, 8, 12, 16]))


def test_frames_are_predicted_as_images_are(checkpoint: Path, clip: Path) -> None:
    predictor = maskrcnn.load(checkpoint, device="cpu")
    images = [frame.pixels for frame in frames(clip)]
    alone = list(predictor.predict(images))
    found = list(predictor.predict(str(clip), batch=2))  # the last batch is not full
    assert [(one.frame, one.path) for one in found] == [(n, clip) for n in range(1, 6)]
    assert [one.time for one in found] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
    assert [one.frame for one in predictor.predict(clip, every=3)] == [1, 4]
    assert isinstance(predictor(clip), list)
    with pytest.raises(ConfigError, match="every must be 1 or more"):
        predictor.predict(clip, every=0)


def test_tracking_gives_ids_that_stay(checkpoint: Path, clip: Path) -> None:
    """An untrained network finds the same places in all frames: that is enough for ids."""
    predictor = maskrcnn.load(checkpoint, device="cpu")
    found = list(predictor.track(clip, score_threshold=0.3))
    assert [one.frame for one in found] == [1, 2, 3, 4, 5]
    for one in found:
        assert one.ids is not None
        assert len(set(one.ids.tolist())) == len(one) > 0
        assert one[0].id == one.ids[0]
    assert set(found[0].ids.tolist()) & set(found[-1].ids.tolist())
    in_order = list(predictor.track([frame.pixels for frame in frames(clip)], score_threshold=0.3))
    assert [one.ids.tolist() for one in in_order] == [one.ids.tolist() for one in found]


def test_the_command(checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out.mp4"
    more = ["--track", "--score-threshold", "0.3", "--max-detections", "4", "--every", "2"]
    main_of(["predict", str(checkpoint), str(clip), "--out", str(out), *more])
    assert "3 frames (0.2 s)" in capsys.readouterr().out
    assert [frame.time for frame in frames(out)] == pytest.approx([0, 0.08, 0.16])
    assert {row["image_id"] for row in json.loads(out.with_suffix(".json").read_text())} == {1, 3, 5}


def test_a_broken_video_is_one_sentence_and_what_was_read_is_saved(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(8)]
    content = write_clip(tmp_path / "a.mp4", noise, codec="mpeg4", options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) * 2 // 3])
    assert (
        main_of(["predict", str(checkpoint), str(tmp_path / "a.mp4"), "--out", str(tmp_path / "o"), "--save", "coco"])
        == 2
    )
    error = capsys.readouterr().err
    assert "it is truncated" in error
    assert json.loads((tmp_path / "o" / "a.json").read_text())[-1]["image_id"] >= 3
    (tmp_path / "b.mp4").write_bytes(bytes(100))
    assert main_of(["predict", str(checkpoint), str(tmp_path / "b.mp4"), "--out", str(tmp_path / "p")]) == 2
    assert "b.mp4: cannot be opened as a video" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
    predictor = maskrcnn.load(checkpoint, device="cpu")
    said: list[DataError] = []
    assert len(list(predictor.predict(tmp_path / "a.mp4", batch=3, on_error=said.append))) >= 3
    assert len(said) == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["image.png"], "predict it in another command than images"),
        (["--save", "mots"], "mots needs ids: add --track"),
        (["--save", "labelme"], "not as labelme"),
        (["--overwrite", "--shard", "1/2"], "--shard, --overwrite: for images only"),
    ],
)
def test_what_cannot_be(checkpoint: Path, clip: Path, tmp_path: Path, capsys, more: list[str], sentence: str) -> None:
    assert main_of(["predict", str(checkpoint), str(clip), *more, "--out", str(tmp_path / "o")]) == 2
    assert sentence in capsys.readouterr().err


def main_of(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
