"""Pickles: arrays come out, nothing runs, nothing huge is allocated."""

import collections
import contextlib
import os
import pickle
import tracemalloc
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.interop.pickles import read_pickle, read_torch

ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "by_column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 5), np.float32),
    "count": np.int64(7),
    "half": np.ones(2, np.float16),
    "nothing": np.array(2.5),
}


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"blobs": collections.OrderedDict(ARRAYS), "cfg": "MODEL: {}", "list": [1, 2.5, None, (b"x", True)]}
    got = read_pickle(write(tmp_path, pickle.dumps(content, protocol)))
    assert got["cfg"] == "MODEL: {}"
    assert got["list"] == [1, 2.5, None, (b"x", True)]
    for name, array in ARRAYS.items():
        assert np.array_equal(got["blobs"][name], array)
        assert got["blobs"][name].dtype == array.dtype.newbyteorder("=")


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its bytes come as text; this is what Python 2 wrote for {"w": np.array([1, -2], "<f4")}."""
    data = np.array([1, -2], "<f4").tobytes()
    content = (
        b"\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + data + b"tbs."
    )
    assert read_pickle(write(tmp_path, content))["w"].tolist() == [1, -2]


class Gadget:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def opcodes(text: str) -> bytes:
    return b"\x80\x02" + text.encode("latin1") + b"."


MALICIOUS = {
    "os.system": pickle.dumps(Gadget(os.system, "touch owned")),
    "eval": pickle.dumps(Gadget(eval, "open('owned', 'w')")),
    "exec in a dict": pickle.dumps({"model": {"w": Gadget(exec, "open('owned', 'w')")}}),
    "getattr": pickle.dumps(Gadget(getattr, "", "join")),
    "import": opcodes("cimportlib\nimport_module\n(X\x02\x00\x00\x00ostR"),
    "numpy's own loader": pickle.dumps(Gadget(np.load, "owned")),
    "a numpy function beside the allowed": opcodes("cnumpy.core.multiarray\nfromfile\n(X\x01\x00\x00\x00xtR"),
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bos.system.x\x93.",
    "a subclass of an array": pickle.dumps(np.ma.array([1.0, 2.0])),
    "objects in an array": pickle.dumps(np.array([{}, []], dtype=object)),
    "structured": pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "O")])),
    "a global object": pickle.dumps(Path("/tmp")),
    "torch": pickle.dumps(torch.zeros(2)),
    "defaults of what reads": opcodes("c_codecs\nencode\n(N}X\x0c\x00\x00\x00__defaults__)stb"),
    "state of what reads": opcodes("cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb"),
    "a class made from nothing": opcodes("cnumpy\ndtype\n)\x81"),
    "a large nothing": opcodes("c__builtin__\nbytes\n(J\x00\x00\x00\x7ftR"),
    "a persistent object": opcodes("Pos\n"),
    "an extension": opcodes("\x82\x01"),
    "text encoded otherwise": opcodes("c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00rot-13\x86R"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_nothing_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, MALICIOUS[name])
    with pytest.raises(CheckpointError, match=r"file\.pkl"):
        read_pickle(path)
    assert sorted(os.listdir(tmp_path)) == ["file.pkl"]


def test_the_error_names_what_was_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"wants to run posix\.system|nt\.system"):
        read_pickle(write(tmp_path, MALICIOUS["os.system"]))


def described(shape: str, code: str, data: bytes) -> bytes:
    """A pickle of an array of this shape (opcodes), dtype and bytes."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    kind = (
        b"cnumpy\ndtype\nU"
        + bytes([len(code)])
        + code.encode()
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return head + shape.encode("latin1") + kind + b"\x89U" + bytes([len(data)]) + data + b"tb."


@pytest.mark.parametrize(
    ("shape", "code", "data"),
    [
        ("J\xff\xff\xff\x7f\x85", "f4", b"1234"),  # two thousand million numbers in four bytes
        ("K\x01\x85", "f4", b"12345"),
        ("J\xff\xff\xff\xff\x85", "f4", b""),  # -1
        ("X\x01\x00\x00\x00a\x85", "f4", b"1234"),
        ("K\x01\x85", "O8", b"12345678"),  # an address as an object
        ("K\x01\x85", "V8", b"12345678"),
        ("K\x01\x85", "S8", b"12345678"),
        ("K\x01\x85", "M8", b"12345678"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, shape: str, code: str, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_pickle(write(tmp_path, described(shape, code, data)))


def test_the_description_used_above_is_right(tmp_path: Path) -> None:
    assert read_pickle(write(tmp_path, described("K\x02\x85", "f4", np.array([1, 2], "f4").tobytes()))).tolist() == [
        1,
        2,
    ]


def test_a_container_that_occurs_many_times_is_walked_once(tmp_path: Path) -> None:
    """Ten lists, each with the one before ten times: walked one by one, that would be 10^10 entries."""
    array = np.arange(2.0)
    nested: list[Any] = [array, (array,)]
    for _ in range(10):
        nested = [nested] * 10
    got = read_pickle(write(tmp_path, pickle.dumps(nested)))
    while isinstance(got[0], list):
        got = got[0]
    assert got[0].tolist() == [0, 1]
    assert got[1][0] is got[0]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_large_file_is_not_in_memory_twice(tmp_path: Path, protocol: int) -> None:
    """20 MB need no more than that, one array, and with protocol 2 the text in which the bytes are stored."""
    arrays = {f"w{number}": np.full(262_144, number, np.float32) for number in range(20)}  # a mebibyte each
    path = write(tmp_path, pickle.dumps({"model": arrays}, protocol))
    tracemalloc.start()
    try:
        got = read_pickle(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(got["model"]["w7"], arrays["w7"])
    assert peak < (1.3 if protocol == 4 else 2.3) * 20 * 2**20


def test_a_container_that_contains_itself_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CheckpointError):
        read_pickle(write(tmp_path, pickle.dumps(endless)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_always_one_sentence(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({"blobs": {"w": np.arange(4.0)}, "cfg": "x"}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(CheckpointError):
        read_pickle(write(tmp_path, bytes(content)))


# --- files of torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_out_of_torch_files(tmp_path: Path, zipped: bool) -> None:
    content = {"model": {"w": torch.arange(3.0)}, "epoch": 3, "args": Namespace(lr=0.1)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    got = read_torch(tmp_path / "a.pth")
    assert got["model"]["w"].tolist() == [0, 1, 2]
    assert got["args"].lr == 0.1


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Gadget(os.system, "touch owned")}, "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be .* wants to run (posix|nt)\.system, .* was not run\."):
        read_torch(tmp_path / "a.pth")
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_truncated_torch_file_is_one_sentence(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[:-300])
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        read_torch(tmp_path / "a.pth")


def test_a_torch_file_with_another_suffix_is_one_sentence(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_torch(tmp_path / "a.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_torch_files_are_always_one_sentence(tmp_path: Path, zipped: bool, data: st.DataObject) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": {"w": torch.arange(4.0), "b": torch.zeros(2, 3)}}, path, _use_new_zipfile_serialization=zipped)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(CheckpointError):
        read_torch(path)
