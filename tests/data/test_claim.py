"""Folders that are written: what was made by others, or changed since, stays."""

import os
from pathlib import Path

import pytest

from maskrcnn.data.claim import claim, sign
from maskrcnn.errors import ConfigError


def fill(folder: Path, *names: str) -> None:
    claim(folder)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    sign(folder)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith("."))


def test_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "a.json", "val/b.json")
    assert files(out) == ["a.json", "val", "val/b.json"]
    claim(out)
    assert files(out) == []


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 1 files that were not written by maskrcnn.*such as mine\.json"):
        claim(tmp_path)
    assert files(tmp_path) == ["mine.json"]


def test_a_file_that_was_changed_since_stays_with_all_others(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    fill(first, "a.json")
    fill(second, "b.json", "c.json")
    (second / "c.json").write_text("corrected")
    with pytest.raises(ConfigError, match=r"second holds 1 files.*changed since, such as c\.json"):
        claim(first, second)
    assert (files(first), files(second)) == (["a.json"], ["b.json", "c.json"])
    os.utime(second / "b.json", (1, 1))  # of the same size
    with pytest.raises(ConfigError, match="holds 2 files"):
        claim(second)


def test_a_folder_that_is_read_is_not_emptied(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "images/a.png")
    with pytest.raises(ConfigError, match=r"a\.png, which is read"):
        claim(out, inputs=[tmp_path / "x" / ".." / "out" / "images" / "a.png"])
    assert files(out) == ["images", "images/a.png"]


def test_links_are_removed_and_what_they_point_to_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").write_text("image")
    out = tmp_path / "out"
    claim(out)
    (out / "a.png").symlink_to(tmp_path / "far" / "a.png")
    (out / "folder").symlink_to(tmp_path / "far")
    sign(out)
    claim(out)
    assert files(out) == []
    assert files(tmp_path / "far") == ["a.png"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"../a.json": [1, 1]}', "[" * 100_000])
def test_a_list_that_cannot_be_read_protects_everything(content, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "a.json")
    (out / ".maskrcnn.json").write_text(content)
    with pytest.raises(ConfigError, match=r"such as a\.json"):
        claim(out)


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("")
    claim(tmp_path)
    assert (tmp_path / ".DS_Store").exists()
