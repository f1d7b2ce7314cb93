"""The report is a single file with everything it shows."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.drawn import draw_dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.evaluation.coco import Curves
from maskrcnn.evaluation.errors import judge_rows
from maskrcnn.ops.rle import string_from_counts
from maskrcnn.reports.mistakes import draw_mistakes, worst_images
from maskrcnn.reports.run_report import read_history, write_report

FIGURES = {"AP": 0.512, "AP50": 0.75, "AP75": 0.25, "APs": -1.0}
CLASS = {"AP": 0.5, "AP50": 0.7, "AP75": -1.0, "AR": 0.6}
AT = {"F1": 0.8, "precision": 0.9, "recall": 0.72, "count_error": 0.314}
EMPTY = {"id": 2, "name": "dust", "objects": 0, "predictions": 0}
METRICS = {
    "box": FIGURES,
    "mask": {**FIGURES, "AP": 0.444},
    "per_class": [
        {
            "id": 1,
            "name": "<cell> & co",
            "objects": 1234,
            "predictions": 7,
            "box": CLASS,
            "mask": CLASS,
            "operating": {"threshold": 0.42, **AT},
        },
        {
            **EMPTY,
            "box": dict.fromkeys(CLASS),
            "mask": dict.fromkeys(CLASS),
            "operating": {"threshold": 0.5, **dict.fromkeys(AT, -1)},
        },
    ],
    "operating": {"task": "mask", "iou": 0.5, "chosen_by": "training", "lowest": 0.42, "highest": 0.5, **AT},
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


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Drawn images, and detections that are right but for one missed object and one of a wrong class."""
    folder = tmp_path_factory.mktemp("scene")
    draw_dataset(folder, train=1, val=4, seed=1, keypoints=False)
    dataset = read_dataset(folder / "val.json")
    rows, wanted = [], 2  # the image with both mistakes
    for i in range(len(dataset)):
        record = dataset.record(i)
        for n, (box, label) in enumerate(zip(record.boxes.tolist(), record.labels.tolist(), strict=True)):
            if i == wanted and n == 0:
                continue
            wrong = i == wanted and n == 1
            category = dataset.categories[(label + wrong) % len(dataset.categories)]
            x1, y1, x2, y2 = box
            height, width = record.size
            mask = np.zeros((height, width), dtype=bool)
            mask[round(y1) : round(y2), round(x1) : round(x2)] = True
            changes = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=0))
            counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
            code = string_from_counts(counts)
            row = {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9, "category_id": category.id}
            segmentation = {"size": [height, width], "counts": code if isinstance(code, str) else code.decode()}
            rows.append({**row, "image_id": dataset.stated_id(i), "segmentation": segmentation})
    return dataset, rows, wanted


def test_the_page_has_figures_charts_and_images(tmp_path, scene) -> None:
    dataset, rows, _ = scene
    path = write_report(
        tmp_path / "run",
        metrics=METRICS,
        history=HISTORY,
        curves={"box": curves(3), "mask": curves(3)},
        judgement=judge_rows(dataset, rows, task="box", max_detections=100),
        dataset=dataset,
        settings={"train": {"lr": 0.01}},
        title="A <run>",
        command="maskrcnn train my_coco/",
    )
    assert path == tmp_path / "run/report.html"
    page = Page(path)
    assert page.open == ["html"] or not page.open
    text = " ".join(page.texts)
    figures = ["0.512", "0.444", "0.420", "31.4%", "from score 0.42 to 0.50", "1,234", "3 min"]
    words = ["A <run>", "<cell> & co", "no keypoints", "train.lr", "my_coco/", "Confusion of classes", "Calibration"]
    assert [word for word in figures + words if word not in text] == []
    assert "None" not in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))
    assert len(page.sources) == 2 * len(dataset)
    assert all(embedded(source).std() > 5 for source in page.sources)  # something is drawn
    titles = ["Loss", "AP on the validation images", "Learning rate", "All classes, over the threshold",
              "Mean of the classes, by IoU", "Classes at IoU 0.50"]  # fmt: skip
    assert [title for title in titles if title not in text] == []


@pytest.mark.parametrize("task", ["box", "mask"])
def test_the_image_with_most_mistakes_comes_first(task, scene) -> None:
    dataset, rows, wanted = scene
    judgement = judge_rows(dataset, rows, task=task, max_detections=100)
    thresholds = np.full(len(dataset.categories), 0.5)
    if task == "box":
        assert worst_images(judgement, thresholds, len(dataset))[0] == wanted
    truth, found = draw_mistakes(dataset, judgement, thresholds, wanted)
    assert truth.size == found.size
    shown = np.asarray(truth).astype(int)
    assert ((shown - (250, 210, 40)) ** 2).sum(axis=2).min() < 300  # a missed object is drawn in its colour


def test_the_page_needs_nothing_from_outside(tmp_path) -> None:
    text = write_report(tmp_path, metrics=METRICS, history=HISTORY).read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=(?![\"']?data:)|url\(|@import", text)
    assert "<script" not in text


def test_an_image_that_is_gone_costs_only_itself(tmp_path, scene) -> None:
    dataset, rows, wanted = scene
    gone = dataset.path(wanted)
    hidden = gone.rename(gone.with_suffix(".hidden"))
    try:
        judgement = judge_rows(dataset, rows, task="box", max_detections=100)
        page = Page(write_report(tmp_path, metrics=METRICS, judgement=judgement, dataset=dataset))
    finally:
        hidden.rename(gone)
    assert len(page.sources) == 2 * (len(dataset) - 1)
    assert any(gone.name in text and "cannot be opened" in text for text in page.texts)


def test_a_page_is_written_even_if_nothing_was_measured(tmp_path) -> None:
    path = write_report(tmp_path / "empty.html", metrics={"box": dict.fromkeys(FIGURES), "per_class": [], "notes": []})
    assert path.name == "empty.html"
    assert "–" in Page(path).texts


def test_nothing_found_is_shown(tmp_path, scene) -> None:
    dataset = scene[0]
    judgement = judge_rows(dataset, [], task="mask", max_detections=100)
    text = " ".join(Page(write_report(tmp_path, metrics=METRICS, judgement=judgement, dataset=dataset)).texts)
    assert "missed" in text
    assert "not found" in text


@pytest.mark.parametrize("records", [HISTORY[:2], HISTORY[2:3], HISTORY[:3]], ids=["steps", "evaluation", "both"])
def test_short_histories_are_plotted(tmp_path, records) -> None:
    assert "<svg" in write_report(tmp_path, metrics=METRICS, history=records).read_text(encoding="utf-8")


def test_of_many_classes_the_best_are_plotted(tmp_path) -> None:
    page = Page(write_report(tmp_path, metrics=METRICS, curves={"box": curves(1), "mask": curves(80)}))
    assert "Classes at IoU 0.50, the best 12" in page.texts


def test_a_line_of_the_log_that_was_cut_short_is_left_out(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in HISTORY) + '{"kind": "st')
    assert read_history(path) == HISTORY
