"""The inputs of `predict`: paths, folders, globs, arrays, images, and iterables of these."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.errors import DataError
from maskrcnn.inputs import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "c.tif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "deeper" / "d.png")
    return tmp_path


def names(inputs: object) -> list[str]:
    return [path.name for path in expand(inputs)]


def test_a_path_is_passed_on_even_if_there_is_no_file(tmp_path: Path) -> None:
    assert list(expand(tmp_path / "missing.png")) == [tmp_path / "missing.png"]
    assert list(expand(str(tmp_path / "missing.png"))) == [tmp_path / "missing.png"]


def test_a_folder_gives_its_images_by_name(folder: Path) -> None:
    assert names(folder) == ["a.JPG", "b.png", "c.tif"]


def test_globs(folder: Path) -> None:
    assert names(str(folder / "*.png")) == ["b.png"]
    assert names(str(folder / "**" / "*.png")) == ["b.png", "d.png"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    (tmp_path / "[1].png").touch()
    assert names(str(tmp_path / "[1].png")) == ["[1].png"]


def test_arrays_and_images_are_passed_on() -> None:
    array, image = np.zeros((2, 3, 3), np.uint8), Image.new("L", (2, 2))
    got = list(expand([array, [image, array]]))
    assert got[0] is array
    assert got[1] is image
    assert got[2] is array


def test_a_generator_is_read_only_as_far_as_needed(folder: Path) -> None:
    asked = []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(len(asked))
            yield folder / "b.png"

    stream = expand(endless())
    next(stream)
    next(stream)
    assert asked == [0, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, "int is not an image"),
        (None, "NoneType is not an image"),
        (np.zeros((2, 3, 4, 3)), r"\[2, 3, 4, 3\]"),
        (torch.zeros(3, 4, 4), "Tensor is not an image"),
        ("nothing/*.png", "no file matches"),
    ],
)
def test_an_input_that_is_no_image_becomes_an_error_in_its_place(wrong: object, message: str, folder: Path) -> None:
    got = list(expand([folder / "b.png", wrong, folder / "c.tif"]))
    assert [type(one) is DataError for one in got] == [False, True, False]
    with pytest.raises(DataError, match=message):
        raise got[1]


def test_a_folder_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    (error,) = expand(tmp_path)
    assert str(tmp_path) in str(error)
