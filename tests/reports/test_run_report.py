"""The report is a single file with everything it shows, with or without matplotlib."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from maskrcnn.evaluation.coco import Curves
from maskrcnn.reports.run_report import NO_PLOTS, read_history, write_report

FIGURES = {"AP": 0.512, "AP50": 0.75, "AP75": 0.25, "APs": -1.0}
CLASS = {"AP": 0.5, "AP50": 0.7, "AP75": -1.0, "AR": 0.6, "F1": 0.8, "threshold": 0.42}
METRICS = {
    "box": FIGURES,
    "mask": {**FIGURES, "AP": 0.444},
    "per_class": [
        {"id": 1, "name": "<cell> & co", "objects": 1234, "predictions": 7, "box": CLASS, "mask": CLASS},
        {
            "id": 2,
            "name": "dust",
            "objects": 0,
            "predictions": 0,
            "box": dict.fromkeys(CLASS),
            "mask": dict.fromkeys(CLASS),
        },
    ],
    "images": 12,
    "objects": 1234,
    "predictions": 7,
    "max_detections": 300,
    "notes": ["keypoint: the data set has no keypoints"],
}
HISTORY = [
    {"kind": "start", "step": 0},
    {"kind": "step", "step": 10, "loss": 3.0, "losses": {"masks": 1.0, "classes": 2.0}, "lr": 0.01, "seconds": 61.0},
    {"kind": "evaluation", "step": 10, "loss": 3.5, "metrics": {"box": {"AP": 0.1}, "mask": {"AP": -1.0}}},
    {"kind": "step", "step": 20, "loss": 2.0, "losses": {"masks": 0.5, "classes": 1.5}, "lr": 0.01, "seconds": 200.0},
    {"kind": "evaluation", "step": 20, "loss": None, "metrics": {"box": {"AP": 0.2}}},
]


def curves(num_classes=2):
    precision = np.tile(np.linspace(1, 0, 101)[None, :, None], (10, 1, num_classes))
    precision[..., -1] = np.nan
    names = tuple(f"class {i}" for i in range(num_classes))
    return Curves(np.linspace(0, 1, 101), np.linspace(0.5, 0.95, 10), precision, precision, names)


class Page(HTMLParser):
    """The texts of a page and the sources of its images. Fails at a tag that is closed but was not open."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.texts, self.open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> was not open"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def embedded(source):
    kind, _, content = source.partition(";base64,")
    assert kind.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a & b.png"
    Image.new("RGB", (2048, 512), (200, 30, 30)).save(path)
    return path


def test_the_page_has_figures_plots_and_images(tmp_path, image) -> None:
    pytest.importorskip("matplotlib")
    path = write_report(
        tmp_path / "run",
        metrics=METRICS,
        history=HISTORY,
        overlays=[image],
        curves={"box": curves(), "mask": curves()},
        settings={"train": {"lr": 0.01}},
        title="A <run>",
        command="maskrcnn train my_coco/",
    )
    assert path == tmp_path / "run/report.html"
    page = Page(path)
    assert page.open == ["html"] or not page.open
    text = " ".join(page.texts)
    figures = ["0.512", "0.444", "0.420", "1,234", "3 min"]
    words = ["A <run>", "<cell> & co", "no keypoints", "train.lr", "my_coco/"]
    assert [word for word in figures + words if word not in text] == []
    assert "None" not in text
    assert "nan" not in text
    shown, *plots = (embedded(source) for source in page.sources)
    assert shown.shape == (256, 1024, 3)  # the overlay, reduced
    assert abs(shown.mean(axis=(0, 1)) - (200, 30, 30)).max() < 5
    assert len(plots) == 3
    assert all(plot.shape[1] > 1000 and plot.std() > 5 for plot in plots)  # something is drawn


def test_the_page_needs_nothing_from_outside(tmp_path) -> None:
    text = write_report(tmp_path, metrics=METRICS, history=HISTORY).read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=(?![\"']?data:)|url\(|@import", text)
    assert "<script" not in text


def test_without_matplotlib_everything_but_the_plots_is_there(tmp_path, image, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(write_report(tmp_path, metrics=METRICS, history=HISTORY, overlays=[image], curves={"box": curves()}))
    assert NO_PLOTS in page.texts
    assert len(page.sources) == 1
    assert "0.512" in page.texts


def test_a_page_is_written_even_if_nothing_was_measured(tmp_path) -> None:
    path = write_report(tmp_path / "empty.html", metrics={"box": dict.fromkeys(FIGURES), "per_class": [], "notes": []})
    assert path.name == "empty.html"
    assert "–" in Page(path).texts
    assert not Page(path).sources


@pytest.mark.parametrize("records", [HISTORY[:2], HISTORY[2:3], HISTORY[:3]], ids=["steps", "evaluation", "both"])
def test_short_histories_are_plotted(tmp_path, records) -> None:
    pytest.importorskip("matplotlib")
    assert len(Page(write_report(tmp_path, metrics=METRICS, history=records)).sources) == 1


def test_curves_without_objects_and_of_many_classes_are_plotted(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    page = Page(write_report(tmp_path, metrics=METRICS, curves={"box": curves(1), "mask": curves(80)}))
    assert len(page.sources) == 2


def test_a_missing_image_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        write_report(tmp_path, metrics=METRICS, overlays=[tmp_path / "gone.png"])


def test_a_line_of_the_log_that_was_cut_short_is_left_out(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in HISTORY) + '{"kind": "st')
    assert read_history(path) == HISTORY
