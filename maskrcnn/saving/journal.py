"""`results.jsonl`: the results of a run, one line an image, each appended when the image is finished.

However the process ends, every line but perhaps the last is whole; the last is cut off when the file is opened again.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..categories import Category, keypoint_slices
from ..errors import DataError
from ..ops.contour import Outline
from ..results import Result

_START = re.compile(rb'\{"index": (\d+), ')  # of every line
_END = b"}\n"


class Journal:
    """The results in a file, by the positions of their images. They stay on the disk: memory holds where they begin."""

    def __init__(self, path: Path, categories: Sequence[Category]) -> None:
        self._path, self._categories = path, tuple(categories)
        path.touch()
        self._file = open(path, "r+b", buffering=0)
        self._starts, self._end = dict[int, int](), 0
        with path.open("rb") as file:
            for line in file:
                found = _START.match(line)
                if found is None or not line.endswith(_END):
                    break
                self._starts[int(found[1])] = self._end
                self._end += len(line)
        self._file.truncate(self._end)

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, index: object) -> bool:
        return index in self._starts

    def add(self, index: int, name: str, result: Result, *, outlines: bool, not_drawn: str = "") -> None:
        """Appends the result of image `index`: all of it, or nothing if there is no room. Raises OSError."""
        fields = {"index": index, **to_line(name, result, outlines=outlines)}
        if not_drawn:
            fields["not_drawn"] = not_drawn
        rest = memoryview(f"{json.dumps(fields)}\n".encode())
        length = len(rest)
        self._file.seek(self._end)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._end)
            raise
        self._starts[index] = self._end
        self._end += length

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every line with its position, in the order of the images. Raises `DataError` if one was changed since."""
        with self._path.open("rb") as file:
            for index, start in sorted(self._starts.items()):
                file.seek(start)
                try:
                    yield index, json.loads(file.readline())
                except ValueError as error:
                    raise DataError(
                        f"{self._path}: the line of image {index} is damaged; start anew with --overwrite"
                    ) from error

    def result(self, line: dict[str, Any], path: Path) -> Result:
        """The result in a line; `path` is the image's."""
        return from_line(line, path, self._categories)

    def clear(self) -> None:
        """Forgets all results."""
        self._file.truncate(0)
        self._starts, self._end = {}, 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def to_line(name: str, result: Result, *, outlines: bool) -> dict[str, Any]:
    """A result for json. Numbers are exact; masks are COCO's run lengths, with their `outlines` only if asked for."""
    line: dict[str, Any] = {
        "image_id": name,
        "size": [int(side) for side in result.size],
        "boxes": result.boxes.tolist(),
        "scores": result.scores.tolist(),
        "labels": result.labels.tolist(),
    }
    if result.rle is not None:
        line["masks"] = [mask["counts"].decode("ascii") for mask in result.rle]
    if outlines and result.outlines is not None:
        line["outlines"] = [[[ring.tolist() for ring in rings] for rings in outline] for outline in result.outlines]
    if result.keypoints is not None:
        line |= {"keypoints": result.keypoints.tolist(), "keypoint_shift": result.keypoint_shift}
    if result.ids is not None:
        line["ids"] = result.ids.tolist()
    if result.thresholds:
        line["thresholds"] = list(result.thresholds)
    return line | {"page": result.page, "scale": result.scale, "tiles": result.tiles}


def from_line(line: dict[str, Any], path: Path, categories: Sequence[Category]) -> Result:
    """The inverse of `to_line`, with masks as run lengths."""
    codes = None
    if "masks" in line:
        codes = np.array([code.encode("ascii") for code in line["masks"]], dtype=object)
    keypoints = None
    if "keypoints" in line:
        count = max(part.stop for part in keypoint_slices(categories))
        keypoints = np.array(line["keypoints"], np.float32).reshape(-1, count, 3)
    height, width = line["size"]
    result = Result(
        size=(height, width),
        boxes=np.array(line["boxes"], np.float32).reshape(-1, 4),
        scores=np.array(line["scores"], np.float32),
        labels=np.array(line["labels"], np.int64),
        codes=codes,
        keypoints=keypoints,
        categories=tuple(categories),
        path=path,
        page=line["page"],
        keypoint_shift=line.get("keypoint_shift", 0.0),
        scale=line["scale"],
        tiles=line["tiles"],
        thresholds=tuple(line.get("thresholds", ())),
        ids=np.array(line["ids"], np.int64) if "ids" in line else None,
    )
    if "outlines" in line:  # finer than those that run lengths have
        vars(result)["outlines"] = [Outline(*map(_rings, outline)) for outline in line["outlines"]]
    return result


def _rings(rings: list[list[list[float]]]) -> list[np.ndarray]:
    return [np.array(ring, np.float64).reshape(-1, 2) for ring in rings]
