"""A pipe or a device in the place of a file is an error at once: reading it would wait, or fill the memory."""

import json
import os
from pathlib import Path

import pytest

from maskrcnn.data.formats import find, read_dataset
from maskrcnn.errors import CheckpointError, DataError
from maskrcnn.files import open_regular
from maskrcnn.images import image_size, read_image
from maskrcnn.inputs import expand
from maskrcnn.weights.read import read_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    return path


def test_files_are_opened_and_nothing_else(pipe: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"content"
    for other in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="a pipe or a device"):
            open_regular(other)
    with pytest.raises(OSError, match="a folder"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "b")


def test_images(pipe: Path) -> None:
    for read in (read_image, image_size):
        with pytest.raises(DataError, match="a pipe or a device"):
            read(pipe)
    array = pipe.rename(pipe.with_suffix(".npy"))
    with pytest.raises(DataError, match="a pipe or a device"):
        read_image(array)


def test_a_folder_that_holds_one(pipe: Path) -> None:
    (error,) = expand(pipe.parent)
    assert isinstance(error, DataError)


def test_an_image_of_a_data_set(pipe: Path) -> None:
    image = {"id": 1, "file_name": pipe.name}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    path = pipe.with_name("train.json")
    path.write_text(json.dumps(content))
    data = read_dataset(path)
    assert len(data) == 0
    assert "a pipe or a device" in "\n".join(data.report.lines(3))


@pytest.mark.parametrize("suffix", [".json", ".xml", ".txt", ".zip", ""])
def test_annotations(suffix: str, pipe: Path) -> None:
    path = pipe.rename(pipe.with_suffix(suffix))
    with pytest.raises(DataError):
        find(path)


def test_weights(pipe: Path) -> None:
    for suffix in (".pth", ".pkl", ".safetensors"):
        pipe = pipe.rename(pipe.with_suffix(suffix))
        with pytest.raises(CheckpointError, match="a pipe or a device"):
            read_checkpoint(pipe)
