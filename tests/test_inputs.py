"""The inputs of `predict`: paths, folders, globs, arrays, images, and iterables of these."""

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from maskrcnn.errors import DataError
from maskrcnn.files import open_regular
from maskrcnn.images import read_image
from maskrcnn.inputs import expand, is_one


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
        (torch.zeros(4, 4), r"tensor must be \[C H W\] or \[B C H W\]"),
        (torch.full((3, 4, 4), 2.0), "values from 0 to 1"),
        (io.StringIO("a.png"), "open as text"),
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


# --- content decides, not the name -----------------------------------------------------------------------------------

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(30)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 130\n"
FILES = {
    "a.jfif": ("JPEG", "image"), "b.JPG": ("JPEG", "image"), "c.jpe": ("JPEG", "image"), "d.j2k": ("JPEG2000", "image"),
    "e.pbm": (b"P1\n1 1\n1", "image"), "f.pnm": ("PPM", "image"), "g.dib": ("DIB", "image"), "h.apng": ("PNG", "image"),
    "no_suffix": ("PNG", "image"), "photo.txt": ("PNG", "image"), "i.bin": ("TIFF", "image"),
    "._a.jpg": (b"\0\5\x16\7\0\2\0\0Mac OS X", "other"), "Thumbs.db": (b"\xd0\xcf\x11\xe0", "other"),
    ".DS_Store": (b"\0\0\0\1Bud1", "other"), "labels.json": (b'{"images": []}', "other"),
    "Python": (b"Python", "other"),
    "x.HEIC": (HEIC, "HEIC image.*pip install pillow-heif"), "y.tiff": (LFS, "Git LFS.*git lfs pull"),
    "z.jpg": (b"<!DOCTYPE html><html>", "HTML page"), "empty.png": (b"", "is empty"), "zeros.jpg": (bytes(99), "zeros"),
}  # fmt: skip


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    for name, (content, _) in FILES.items():
        if isinstance(content, str):
            Image.new("RGB", (4, 4)).save(tmp_path / name, content)
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_folder_gives_what_is_an_image_and_what_is_called_one(
    pattern: str, mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = {".DS_Store", "._a.jpg"} if pattern else set()  # by the rules of globs
    assert names(str(mixed / pattern)) == sorted(name for name, (_, kind) in FILES.items() if kind != "other")
    (line,) = caplog.messages
    others = sorted({name for name, (_, kind) in FILES.items() if kind == "other"} - hidden)
    assert f"{len(others)} files are no images and are passed over ({', '.join(others)})" in line


@pytest.mark.parametrize("name", [name for name, (_, kind) in FILES.items() if kind not in ("image", "other")])
def test_a_file_that_is_no_image_is_named_for_what_it_is(name: str, mixed: Path) -> None:
    if name == "x.HEIC" and importlib.util.find_spec("pillow_heif"):
        pytest.skip("pillow-heif is installed")
    with pytest.raises(DataError, match=rf"{name}: .*{FILES[name][1]}"):
        read_image(mixed / name)


def test_only_the_start_of_a_file_is_read_and_only_when_its_turn_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = open_regular
    monkeypatch.setattr("maskrcnn.inputs.open_regular", lambda path: opened.append(path.name) or real(path))
    stream = expand(folder)
    assert next(stream) == folder / "a.JPG"
    assert opened == ["a.JPG"]


def test_tensors_are_images_with_the_channels_first() -> None:
    levels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    first, second = expand(levels)
    assert np.array_equal(first, levels[0].permute(1, 2, 0).numpy())
    assert np.array_equal(second, levels[1].permute(1, 2, 0).numpy())
    (same,) = expand(levels[1].float() / 255)
    assert np.array_equal(same, second)


def test_open_files_are_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3), (9, 8, 7)).save(path)
    with path.open("rb") as file:
        (content,) = expand(file)
    assert content == path.read_bytes()


def test_a_single_image_is_told_from_several(tmp_path: Path) -> None:
    path = tmp_path / "a[1].png"
    path.touch()
    array, tensor = np.zeros((2, 2, 3), np.uint8), torch.zeros(3, 2, 2)
    assert [is_one(one) for one in (path, str(path), array, tensor, b"", io.BytesIO())] == [True] * 6
    several = (tmp_path, str(tmp_path / "*.png"), [path], tensor[None], iter([path]))
    assert [is_one(some) for some in several] == [False] * 5


def test_a_folder_of_other_files_is_an_error_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (error,) = expand(tmp_path)
    assert "there is no image; it holds 1 file (notes.txt); subfolders are not searched" in str(error)


def test_an_avif_is_read_or_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.avif"
    if features.check("avif"):
        Image.new("RGB", (40, 30), (200, 10, 10)).save(path)
        assert np.abs(read_image(path).astype(int) - (200, 10, 10)).max() < 12
    path.write_bytes(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(DataError, match=r"a\.avif: AVIF cannot be read here.*pip install --upgrade pillow"):
        read_image(path)
