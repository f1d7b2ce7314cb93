"""The demo from end to end, on a few images."""

import json

import pytest

from maskrcnn import demo


@pytest.mark.slow
def test_the_demo_leaves_a_report_and_does_not_repeat_its_work(tmp_path, monkeypatch, capsys) -> None:
    for name, value in {"TRAIN_IMAGES": 16, "VAL_IMAGES": 4, "EPOCHS": 1.0}.items():
        monkeypatch.setattr(demo, name, value)
    metrics = demo.demo(tmp_path)
    assert metrics["images"] == 4
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert len(list((tmp_path / "predictions").iterdir())) == 4
    assert "Mask R-CNN on drawn shapes" in (tmp_path / "report.html").read_text()
    files = [tmp_path / "report.html", *(tmp_path / "predictions").iterdir()]
    written = [path.stat().st_mtime_ns for path in files]
    assert demo.demo(tmp_path) == metrics
    assert [path.stat().st_mtime_ns for path in files] == written
    assert f"box AP {metrics['box']['AP']:.3f}" in capsys.readouterr().out
