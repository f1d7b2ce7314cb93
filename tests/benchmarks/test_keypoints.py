"""The benchmark of keypoints: which photographs it takes, and its page."""

from typing import Any

from benchmarks.keypoints import missed, photographs, report

MACHINE = {"processor": "a small one, 2 of 2 cores, avx2", "versions": "torch 2.13.0"}


def test_it_takes_the_first_photographs_with_labelled_keypoints_and_the_first_without_people() -> None:
    images = [{"id": id} for id in range(40, 0, -1)]
    people = [
        {"image_id": id, "num_keypoints": id % 3} for id in range(1, 21)
    ]  # 3, 6, ... 18 have no labelled keypoint
    content = {"images": images, "annotations": people}
    assert photographs(content, nobody=False) == {1, 2, 4, 5, 7, 8, 10, 11}
    assert photographs(content, nobody=True) == {1, 2, 4, 5, 7, 8, 10, 11, *range(21, 29)}


def found(ap: float, seconds: float) -> dict[str, Any]:
    figures = {"AP": ap, "AP50": 0.9, "AP75": -1.0}
    return {**dict.fromkeys(("keypoint", "box", "mask"), figures), "steps": 7, "seconds": seconds, "machine": MACHINE}


def test_the_bars_are_for_precision_and_time() -> None:
    assert missed("drawn", found(0.51, 599)) == ""
    assert missed("drawn", found(0.49, 599)) == "keypoint AP 0.490 is below 0.5"
    assert missed("drawn", found(0.51, 660)) == "training took 11.0 minutes, more than 10"
    assert missed("people", found(0.81, 6600)) == ""
    assert missed("people and nobody", found(0.79, 6600)) == "keypoint AP 0.790 is below 0.8"


def test_the_page() -> None:
    page = report({"people": found(0.79, 60), "drawn": found(0.51, 300)})
    assert "| drawn | 0.510 | 0.5 | 0.900 | – | 0.510 | 0.510 | 7 | 5.0 min | yes |" in page
    assert "| people | 0.790 | 0.8 | 0.900 | – | 0.790 | 0.790 | 7 | 1.0 min | no |" in page
