"""`predict` is killed at random moments and started again: its files are those of a run that was left alone."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import write_tiny_checkpoint

KILLS = 10
IMAGES = 60
FORMATS = "overlay,coco,csv,parquet,coco-dataset,labelme,via,cvat,labelstudio,geojson,yolo,voc,masks,cityscapes"


def files(out: Path) -> dict[str, bytes]:
    """All but the lists of files, which have times."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.name != ".maskrcnn.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_ten_kills_change_no_byte(tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("pyarrow")
    weights = write_tiny_checkpoint(tmp_path / "model.safetensors")
    for i in range(IMAGES):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((96, 64)).save(path)

    def start(out: str) -> "subprocess.Popen[str]":
        words = [weights, tmp_path / "images", "--recursive", "--out", tmp_path / out, "--save", FORMATS]
        command = [sys.executable, "-m", "maskrcnn", "predict", *map(str, words), "--max-detections", "3"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole = start("whole")
    began = time.monotonic()
    told, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, told
    journal, kills, finished = tmp_path / "killed" / "results.jsonl", 0, [0]
    while kills < KILLS:
        running, before = start("killed"), finished[-1]
        while running.poll() is None and time.monotonic() < began + 1200:
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            if lines > before or (before == IMAGES and (tmp_path / "killed/.geojson.part").exists()):
                break
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.7)))
        running.send_signal(signal.SIGKILL)
        told, _ = running.communicate(timeout=60)
        assert running.returncode == -signal.SIGKILL, told
        kills, finished = kills + 1, [*finished, journal.read_bytes().count(b"\n")]
    last = start("killed")
    told, _ = last.communicate(timeout=600)
    assert last.returncode == 0, told
    assert f"{finished[-1]} of {IMAGES} images were predicted before" in told
    print("images that each kill left:", finished[1:])
    before, after = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
