"""Zips as tools export them are unpacked once, whole, and never out of their folder."""

import contextlib
import io
import multiprocessing
import os
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.data import archives
from maskrcnn.data.archives import unpacked
from maskrcnn.data.formats import find, read_dataset
from maskrcnn.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outside(tmp_path: Path) -> set[str]:
    """All that is in the folder but the zip itself."""
    return {path.name for path in tmp_path.iterdir() if path.suffix not in (".zip", ".lock")}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_becomes_a_folder_beside_it_once(tmp_path, capsys, method) -> None:
    path = zipped(
        tmp_path / "my set.zip", ("images/a.png", b"a" * 3000), ("b.xml", b"b"), ("empty/", b""), method=method
    )
    folder = unpacked(path)
    assert folder.parent == tmp_path
    assert folder.name.startswith("my set-")
    assert tree(folder) == {"images/a.png": b"a" * 3000, "b.xml": b"b"}
    assert capsys.readouterr().out == f"{path} is unpacked into {folder}\n"
    (folder / "b.xml").write_bytes(b"changed by the user")
    assert unpacked(path) == folder
    assert (folder / "b.xml").read_bytes() == b"changed by the user"
    assert not capsys.readouterr().out
    assert outside(tmp_path) == {folder.name}
    assert unpacked(zipped(path, ("b.xml", b"another"))) != folder


def test_a_zip_opens_as_the_folder_in_it(tmp_path) -> None:
    pixels = io.BytesIO()
    Image.new("L", (20, 10)).save(pixels, "PNG")
    members = ("set/data.yaml", b"train: images\nnames: [disc]\n"), ("set/images/a.png", pixels.getvalue())
    path = zipped(tmp_path / "a.zip", *members, ("set/labels/a.txt", b"0 0.5 0.5 0.5 0.4\n"), ("__MACOSX/x", b""))
    data = read_dataset(find(path)["train"])
    assert data.record(0).boxes.tolist() == [[5, 3, 15, 7]]
    assert data.source.is_relative_to(unpacked(path))


def test_what_is_no_archive_stays_as_it_is(tmp_path) -> None:
    (tmp_path / "a.json").write_text("PK is not the beginning of this\n")
    for path in (tmp_path, tmp_path / "a.json", tmp_path / "missing"):
        assert unpacked(path) == path


def test_the_cache_takes_what_the_folder_of_the_zip_cannot(tmp_path, cache, monkeypatch) -> None:
    path = zipped(tmp_path / "a.zip", ("b.xml", b"b"))
    monkeypatch.setattr(archives.os, "access", lambda place, mode: Path(place) != tmp_path)
    folder = unpacked(path)
    assert folder.parent == cache / "data"
    assert tree(folder) == {"b.xml": b"b"}
    assert unpacked(path) == folder


def test_what_macos_adds_is_left_out(tmp_path) -> None:
    path = zipped(
        tmp_path / "a.zip", ("__MACOSX/._b.xml", b"x"), ("d/._c", b"x"), ("d/.DS_Store", b"x"), ("d/b.xml", b"b")
    )
    assert tree(unpacked(path)) == {"d/b.xml": b"b"}


def renamed(path: Path, old: bytes, new: bytes) -> Path:
    """Replaces a member's name in the bytes of the zip: `zipfile` would correct it."""
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def test_names_of_other_systems(tmp_path) -> None:
    path = renamed(zipped(tmp_path / "a.zip", ("images@a.png", b"a")), b"images@a.png", b"images\\a.png")
    assert tree(unpacked(path)) == {"images/a.png": b"a"}
    path = zipped(tmp_path / "b.zip", ("größe.png", b"a"))  # with the flag for UTF-8
    assert tree(unpacked(path)) == {"größe.png": b"a"}
    path = renamed(zipped(tmp_path / "c.zip", ("gr@@@@e.png", b"a")), b"gr@@@@e.png", "größe.png".encode())
    assert tree(unpacked(path)) == {"größe.png": b"a"}  # UTF-8 without the flag, as macOS writes
    path = renamed(zipped(tmp_path / "d.zip", ("gr@sse.png", b"a")), b"gr@sse.png", b"gr\x94sse.png")
    assert tree(unpacked(path)) == {"grösse.png": b"a"}  # cp437


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../a.txt", "would leave the folder"),
        ("d/../../a.txt", "would leave the folder"),
        ("d/.. /a.txt", "would leave the folder"),
        ("/etc/a.txt", "would leave the folder"),
        ("C:/a.txt", "would leave the folder"),
        ("C:a.txt", "would leave the folder"),
        ("..\\..\\a.txt", "would leave the folder"),
        ("\\\\host\\share\\a.txt", "would leave the folder"),
        ("d/con.txt", "has the name of a device"),
        ("LPT1", "has the name of a device"),
        ("a\n.txt", "has a name that names no file"),
        ("a/" * 30_000 + "b", "has too long a name"),
        ("./", "has a name that names no file"),
    ],
)
def test_an_unsafe_name_refuses_the_archive(tmp_path, name, reason) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = name
    path = zipped(tmp_path / "sub" / "a.zip", ("good.txt", b"good"), (info, b"bad"))
    with pytest.raises(DataError, match=rf"a\.zip: its member .* {reason}; nothing was unpacked"):
        unpacked(path)
    assert outside(tmp_path) == {"sub"}
    assert outside(tmp_path / "sub") == set()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind) -> None:
    info = zipfile.ZipInfo("a.txt")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(DataError, match=r"is a link, not a file|is no ordinary file"):
        unpacked(zipped(tmp_path / "a.zip", (info, b"/etc/passwd")))
    assert outside(tmp_path) == set()


def test_a_member_cannot_replace_another(tmp_path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "a.zip", ("a.txt", b"1"), ("a.txt", b"2"))
    with pytest.raises(DataError, match="is there twice"):
        unpacked(path)
    with pytest.raises(DataError, match="is there twice"):  # one file on Windows and macOS
        unpacked(zipped(tmp_path / "b.zip", ("a.txt", b"1"), ("A.TXT", b"2")))
    with pytest.raises(DataError, match="is both a file and a folder"):
        unpacked(zipped(tmp_path / "c.zip", ("a", b"1"), ("a/b.txt", b"2")))


def test_a_bomb_is_refused_before_it_is_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    path = zipped(tmp_path / "a.zip", ("a.txt", bytes(3 << 20)))
    with pytest.raises(DataError, match=r"bytes that would become 3,145,728, as those of a zip bomb"):
        unpacked(path)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    with pytest.raises(DataError, match=r"3 members; at most 2"):
        unpacked(zipped(tmp_path / "b.zip", ("a", b""), ("b", b""), ("c", b"")))
    assert outside(tmp_path) == set()


def test_members_that_share_their_bytes_count_each(tmp_path, monkeypatch) -> None:
    """The bomb that overlaps: many entries of the directory refer to one member."""
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    content = zipped(tmp_path / "a.zip", ("aaa", os.urandom(1 << 16))).read_bytes()
    end = content.rindex(b"PK\x05\x06")
    first = content.rindex(b"PK\x01\x02", 0, end)
    entry, tail = content[first:end], bytearray(content[end:])
    entries = b"".join(entry.replace(b"aaa", b"%03d" % i) for i in range(200))
    struct.pack_into("<HHI", tail, 8, 200, 200, len(entries))
    (tmp_path / "b.zip").write_bytes(content[:first] + entries + bytes(tail))
    with pytest.raises(DataError, match=r"as those of a zip bomb"):
        unpacked(tmp_path / "b.zip")


def test_a_stated_size_that_is_too_small_is_not_exceeded(tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", bytes(1 << 20)))
    content = path.read_bytes().replace(struct.pack("<I", 1 << 20), struct.pack("<I", 10))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"its member 'a\.txt' cannot be unpacked"):
        unpacked(path)
    assert outside(tmp_path) == set()


def test_a_full_disk_is_named_beforehand(tmp_path, monkeypatch) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", b"a"))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda place: Usage())
    with pytest.raises(DataError, match=r"needs 1 bytes in .*, but 10 are free there"):
        unpacked(path)


class Usage:
    free = 10


def test_archives_within_stay_closed(tmp_path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("../../a.txt", b"a")
    folder = unpacked(zipped(tmp_path / "a.zip", ("inner.zip", inner.getvalue())))
    assert list(tree(folder)) == ["inner.zip"]


def test_encrypted_archives_are_named(tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", b"secret"))
    content = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted; unpack it with its password"):
        unpacked(path)


def test_broken_archives_are_named_and_leave_nothing(tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", os.urandom(1000)), ("b.txt", b"b" * 1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(DataError, match="a damaged zip, perhaps truncated"):
        unpacked(path)
    named = renamed(zipped(tmp_path / "n.zip", ("größe", b"a")), "größe".encode(), b"gr\xff\xb6\xc3\x9fe")
    with pytest.raises(DataError, match="a damaged zip"):
        unpacked(named)
    damaged = bytearray(whole)
    damaged[200] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"its member 'a\.txt' cannot be unpacked \(Bad CRC-32"):
        unpacked(path)
    assert outside(tmp_path) == set()


def test_other_archives_are_named(tmp_path) -> None:
    for name, content, kind in (
        ("a.7z", b"7z\xbc\xaf\x27\x1c....", "7-Zip"),
        ("a.rar", b"Rar!\x1a\x07", "RAR"),
        ("a.tar", bytes(257) + b"ustar" + bytes(250), "tar"),
        ("a.tar.gz", b"\x1f\x8b", "tar"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"a {kind} archive; only zip is opened"):
            unpacked(tmp_path / name)


def _unpack(path: str, barrier) -> None:
    barrier.wait()
    unpacked(Path(path))


def test_processes_that_ask_at_once_get_one_folder(tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", *((f"{i}.txt", b"x" * 1000) for i in range(200)))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    workers = [context.Process(target=_unpack, args=(str(path), barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(tree(unpacked(path))) == 200
    assert len(outside(tmp_path) - {"cache"}) == 1


@settings(max_examples=80)
@given(st.data())
def test_any_damage_is_read_or_refused(data) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = zipped(Path(name) / "in" / "a.zip", ("d/a.txt", b"a" * 100), ("größe.txt", zlib.compress(b"b" * 40)))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(4, len(content)))])
        with contextlib.suppress(DataError):
            folder = unpacked(path)
            assert {found.name for found in folder.parent.iterdir()} <= {path.name, folder.name}
        assert [found.name for found in Path(name).iterdir()] == ["in"]
