"""Runs beside each other: what differs is said in words, what cannot be compared with the reason."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from maskrcnn.cli.report import report
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.evaluation.matches import Matches, write_matches
from tests.reports.test_run_report import HISTORY, METRICS, Page

IMAGES = 40


def table(rng, *, good: float, fingerprint: str = "a") -> Matches:
    """Two objects of "cell" and one of "dust" in each image; `good` is the share of cells that are found."""
    images = np.tile(np.arange(IMAGES), 3).astype(np.int32)
    labels = np.repeat([0, 0, 1], IMAGES).astype(np.int32)
    right = np.where(labels == 0, rng.random(len(labels)) < good, np.arange(len(labels)) % 2 == 0)
    scores = np.linspace(1, 0, len(labels), dtype=np.float32)
    hits = np.tile(right, (10, 1))
    return Matches(fingerprint, ("cell", "dust"), np.arange(IMAGES), images, labels, scores, hits, np.ones_like(hits),
                   images, labels)  # fmt: skip


def folder(path, matches, lr=0.01):
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps({**METRICS, "box": {"AP": 0.5}}))
    (path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in HISTORY))
    (path / "config.toml").write_text(f'[train]\nlr = {lr}\nbatch = 2\n[model]\nname = "R-18-FPN"\n')
    if matches is not None:
        write_matches(path, {"box": matches})
    return path


def test_a_difference_is_said_and_noise_is_not_called_progress(tmp_path, rng, capsys) -> None:
    base = folder(tmp_path / "base", table(rng, good=0.3))
    better = folder(tmp_path / "better", table(rng, good=0.9), lr=0.02)
    again = folder(tmp_path / "again", table(rng, good=0.3))
    report([base, better, again], out=tmp_path / "page.html", bootstrap=100)
    said = capsys.readouterr().out
    text = " ".join(Page(tmp_path / "page.html").texts)
    assert "better against base, AP of boxes" in said
    lines = {line.partition(" ")[0]: line for line in said.splitlines() if " against " in line}
    assert "better by more than noise" in lines["better"]
    assert "within noise" in lines["again"]
    assert "1 better (cell " in said
    assert "none differs by more than noise" in said
    for sentence in said.splitlines()[:-1]:
        assert sentence in text
    assert "train.lr" in text
    assert "train.batch" not in text  # it is the same
    assert [
        name for name in ("Loss", "Learning rate", "Difference of AP", "better, validation") if name not in text
    ] == []
    assert "nan" not in text


@pytest.mark.parametrize(("other", "reason"), [
    (None, "has no matches.npz"),
    ({"fingerprint": "b"}, "other annotations"),
    ({"image_ids": np.arange(IMAGES) + 1}, "other images of the same annotations"),
])  # fmt: skip
def test_evaluations_on_other_data_are_not_compared(tmp_path, rng, capsys, other, reason) -> None:
    matches = table(rng, good=0.5)
    base = folder(tmp_path / "base", matches)
    others = folder(tmp_path / "other", other and replace(matches, **other))
    report([base, others], out=tmp_path / "both", bootstrap=50)
    said = capsys.readouterr().out
    assert "AP is not compared" in said
    assert reason in said
    assert "by class" not in " ".join(Page(tmp_path / "both/report.html").texts)


def test_one_run_is_reported_again_and_keeps_what_needs_its_detections(tmp_path, rng) -> None:
    run = folder(tmp_path / "run", table(rng, good=0.5))
    (run / "report.html").write_text("old<!--images--><h2>Images</h2><!--/images-->old")
    report([run], bootstrap=0)
    page = Page(run / "report.html")
    assert {"Images", "Loss", "Boxes: precision over recall", "R-18-FPN, run"} <= set(page.texts)
    assert "old" not in page.texts
    newer = (run / "report.html").stat().st_mtime + 10

    os.utime(run / "metrics.json", (newer, newer))
    report([run], bootstrap=0)
    assert "Images" not in Page(run / "report.html").texts


def test_what_is_no_run_is_refused(tmp_path, rng) -> None:
    run = folder(tmp_path / "run", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither metrics"):
        report([run, tmp_path / "empty"], bootstrap=50)
    with pytest.raises(DataError, match="given twice"):
        report([run, run], bootstrap=50)
    with pytest.raises(ConfigError, match="bootstrap is 0 or 50"):
        report([run], bootstrap=3)
    other = folder(tmp_path / "other", None)
    with pytest.raises(ConfigError, match="choose another --out"):
        report([run, other], out=other, bootstrap=50)
