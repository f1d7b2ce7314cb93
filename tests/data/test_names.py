"""Image files by names that another system or tool wrote."""

import os
import unicodedata
from pathlib import Path

import pytest

from maskrcnn.data.formats import read_dataset
from maskrcnn.data.names import Found, ImageFinder, Lost, names_below
from maskrcnn.errors import DataError
from tests.data.coco_files import coco, write

NFD = unicodedata.normalize("NFD", "größe 1.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/pic1.png", "images/b/Deep.JPG", f"images/{NFD}", "images/one.tiff", "images/shot 1.png",
                 "x/same.png", "y/same.png", "images/pic2"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images/pic1.png", "images/pic1.png"),
        ("images\\pic1.png", "images/pic1.png"),
        ("images\\3/pic1.png", "images/pic1.png"),
        ("C:\\Users\\me\\pic1.png", "images/pic1.png"),
        ("/srv/data/images/pic1.png", "images/pic1.png"),
        ("..\\..\\media\\upload\\4\\pic1.png", "images/pic1.png"),
        ("b/../pic1.png", "images/pic1.png"),
        ("https://host/data/upload/1/pic1.png?size=3", "images/pic1.png"),
        ("/data/local-files/?d=images/pic1.png", "images/pic1.png"),
        ("0a1b2c3d-pic1.png", "images/pic1.png"),
        ("PIC1.PNG", "images/pic1.png"),
        ("deep.jpeg", "images/b/Deep.JPG"),
        ("pic1", "images/pic1.png"),
        ("one.tif", "images/one.tiff"),
        ("shot%201.png", "images/shot 1.png"),
        (unicodedata.normalize("NFC", NFD), f"images/{NFD}"),
        ("x\\same.png", "x/same.png"),
        (" images/pic1.png\n", "images/pic1.png"),
    ],
)
def test_a_file_is_found_by_another_name(name, expected, folder) -> None:
    found = ImageFinder([folder]).find(name)
    assert isinstance(found, Found)
    assert found.name == expected


@pytest.mark.parametrize(
    ("name", "file"),
    [("up.png", "12ab34cd-up.png"), ("Käse.png", "K├ñse.png"), ("über.png", "Ã¼ber.png")],
)
def test_a_file_that_another_program_renamed_is_found(name, file, tmp_path) -> None:
    (tmp_path / file).touch()
    found = ImageFinder([tmp_path]).find(name)
    assert isinstance(found, Found)
    assert found.name == file


@pytest.mark.parametrize(
    ("name", "words"),
    [("same.png", "several"), ("z/nothing.png", "missing"), ("pic1.jpg", "nearest name there is images/pic1.png"),
     ("x/pic1.png", "missing"), ("../../etc/passwd", "leaves"), ("", "without a file name"), ("..", "leaves"),
     ("\ud800", "not valid text"), (None, "without a file name")],
)  # fmt: skip
def test_what_does_not_fit_alone_is_lost(name, words, folder) -> None:
    lost = ImageFinder([folder]).find(name)
    assert isinstance(lost, Lost)
    assert words in f"{lost.reason} ({lost.detail})"


def test_nothing_outside_the_folder_is_found(folder) -> None:
    for name in ("../x/same.png", str(folder / "x" / "same.png"), "..\\x\\same.png"):
        assert isinstance(ImageFinder([folder / "images"]).find(name), Lost)


def test_the_first_root_wins(folder) -> None:
    found = ImageFinder([folder / "y", folder]).find("SAME.png")
    assert isinstance(found, Found)
    assert (folder / "y", folder)[found.root] / found.name == folder / "y" / "same.png"


def test_a_file_is_given_to_the_image_that_states_it(tmp_path) -> None:
    content = coco()
    content["images"][0]["file_name"] = "other/b.png"  # a name that could mean b.png, which is another image's
    path = write(tmp_path, content)
    data = read_dataset(path)
    assert data.image_ids.tolist() == [3, 5]
    assert data.report.count("image") == 1
    content["images"] = content["images"][::-1]
    assert read_dataset(write(tmp_path, content)).image_ids.tolist() == [5, 3]


def test_the_error_names_a_file_and_where_it_was_looked_for(tmp_path) -> None:
    path = write(tmp_path, coco())
    for name in ("a.png", "b.png", "empty.png"):
        (tmp_path / name).unlink()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "aa.png").touch()
    with pytest.raises(
        DataError, match=r"none of its 3 images .*a\.png, looked for in .*nearest name there is .*aa\.png"
    ):
        read_dataset(path)


def test_a_name_may_be_meant_from_another_folder(folder) -> None:
    (folder / "json" / "y").mkdir(parents=True)
    finder = ImageFinder([folder])
    for name, near, expected in (
        ("same.png", "x", "x/same.png"),
        ("../same.png", "x/json", "x/same.png"),
        ("..\\..\\y\\SAME.png", "json/x", "y/same.png"),
        ("same.png", "json/y", "y/same.png"),  # a folder of annotations, called as that of the images
        ("images/pic1.png", "x", "images/pic1.png"),
    ):
        found = finder.find(name, near)
        assert isinstance(found, Found)
        assert found.name == expected
    assert finder.with_stem("pic1", "images") == "images/pic1.png"
    assert finder.with_stem("pic1", "x") is None
    assert "images/pic2" not in finder.images()


def test_files_below_a_folder_come_folder_by_folder(folder) -> None:
    for hidden in (".git/a.png", "x/.a.png", "__MACOSX/x/._same.png"):
        (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
        (folder / hidden).touch()
    (folder / "a.png").symlink_to(folder / "x" / "same.png")
    (folder / "loop").symlink_to(folder)
    (folder / "x" / "gone.png").symlink_to(folder / "nothing.png")
    found = [name for name in names_below(folder, (".png", ".tiff")) if name.isascii()]
    assert found == ["a.png", "images/one.tiff", "images/pic1.png", "images/shot 1.png", "x/same.png", "y/same.png"]


@pytest.mark.skipif(os.name == "nt", reason="names are texts there")
def test_a_file_whose_name_is_no_text_is_named_and_passed_over(tmp_path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).touch()
    except OSError:
        pytest.skip("this disk stores texts only")
    (tmp_path / "a.png").touch()
    with pytest.warns(UserWarning, match=r"udcff\.png' is passed over: its name is no text; rename it"):
        assert list(names_below(tmp_path)) == ["a.png"]
