"""The doctor: it finds nothing wrong here, and what is wrong is named with the way out."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from maskrcnn import doctor
from maskrcnn.cli.main import main


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (end.value.code, told["ok"]) == (0, True)
    about = {one["about"]: one for one in told["findings"]}
    assert {"Python", "threads", "processor", "precision", "kernels, processor", "open files", "cache"} <= about.keys()
    assert {f"extra {name}" for name in doctor.FOR} <= about.keys()
    assert "auto is" in about["precision"]["words"]


def test_what_is_broken_ends_with_one_and_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    told = capsys.readouterr()
    assert end.value.code == 1
    way = f"{tmp_path / 'cache'} cannot be written: set MASKRCNN_CACHE to a folder that can"
    assert told.err == f"maskrcnn: cache: {way}\n"
    assert f"X cache                {way}" in told.out.splitlines()


def test_what_is_missing_or_scarce_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**26, 0, 2**26))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 256))
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pandas" else "1.0")
    found = {one.about: one for one in doctor.examine()}
    assert found["open files"] == ("open files", "slow", "at most 256: too few for workers; ulimit -n 4096")
    assert found["cache"].state == "slow"
    assert found["extra table"] == ("extra table", "missing", "for Result.to_df: pip install 'maskrcnn[table]'")
    assert found["extra wandb"].state == "ok"
