"""One object of a result at a time, and results in the forms of other libraries: a table, a notebook, supervision."""

import io
import tempfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from .results import Result

_SHOWN = 900  # pixels, the longest side of an image in a notebook
_LISTED = 20  # classes in a notebook


@dataclass(frozen=True, repr=False)
class Instance:
    """Object `index` of a result. Masks and outlines are made when asked for."""

    result: "Result"
    index: int

    @property
    def box(self) -> np.ndarray:
        """float32 [4], xyxy, continuous pixels of the image."""
        return self.result.boxes[self.index]

    @property
    def score(self) -> float:
        """0..1."""
        return float(self.result.scores[self.index])

    @property
    def label(self) -> int:
        """The data set's category id."""
        return int(self.result.labels[self.index])

    @property
    def name(self) -> str:
        """The category's."""
        return self.result.names[self.index]

    @property
    def mask(self) -> np.ndarray:
        """bool [H W]. Raises `ConfigError` for a model without masks."""
        return self.result.mask(self.index)

    @property
    def polygons(self) -> list[np.ndarray] | None:
        """The outer outlines, float64 [n 2], (x, y), or None without masks."""
        polygons = self.result.select([self.index]).polygons
        return None if polygons is None else polygons[0]

    @property
    def keypoints(self) -> np.ndarray | None:
        """float32 [J 3], x, y, score, or None for a model without keypoints."""
        return None if self.result.keypoints is None else self.result.keypoints[self.index]

    def __repr__(self) -> str:
        box = ", ".join(f"{side:.1f}" for side in self.box.tolist())
        return f"Instance({self.name}, {self.score:.2f}, box [{box}])"


def crop(image: np.ndarray, box: np.ndarray, margin: float) -> "Image":
    """The part of an image, uint8 [H W 3], in a box, xyxy, that is `margin` of its sides larger at every side."""
    from PIL import Image

    x1, y1, x2, y2 = box.astype(np.float64).tolist()
    wide, high = margin * (x2 - x1), margin * (y2 - y1)
    height, width = image.shape[:2]
    left, top = max(int(np.floor(x1 - wide)), 0), max(int(np.floor(y1 - high)), 0)
    right, bottom = min(int(np.ceil(x2 + wide)), width), min(int(np.ceil(y2 + high)), height)
    return Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))


def to_df(result: "Result") -> Any:
    """A `pandas.DataFrame` with the columns of `--save csv`. Raises `ConfigError` if pandas is not installed."""
    from .data.formats.tables import INTEGERS, TEXTS, Table

    try:
        import pandas
    except ImportError as error:
        raise ConfigError("to_df needs pandas: pip install 'maskrcnn[table]'") from error
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder), result.categories)
        table.add(result.record(shapes=False))
        frame = pandas.DataFrame(list(table.rows()), columns=table.columns)
        table.close()
    kinds = {name: "int64" if name in INTEGERS else "float64" for name in frame.columns if name not in TEXTS}
    return frame.replace("", "nan").astype(kinds)


def to_supervision(result: "Result") -> Any:
    """`supervision.Detections`, with masks. Raises `ConfigError` if supervision is not installed."""
    try:
        import supervision  # type: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("to_supervision needs supervision: pip install supervision") from error
    return supervision.Detections(
        xyxy=result.boxes,
        mask=result.masks,
        confidence=result.scores,
        class_id=result.labels,
        data={"class_name": np.array(result.names)},
    )


def to_png(overlay: Callable[[], "Image"]) -> bytes | None:
    """The overlay as a PNG for a notebook, or None if its image cannot be read."""
    try:
        drawn = overlay()
    except (DataError, ValueError):
        return None
    drawn.thumbnail((_SHOWN, _SHOWN))
    stored = io.BytesIO()
    drawn.save(stored, "PNG", compress_level=1)
    return stored.getvalue()


def to_html(result: "Result") -> str:
    """The overlay and the counts of classes for a notebook."""
    png = to_png(result.overlay)
    image = f'<img alt="overlay" src="data:image/png;base64,{b64encode(png).decode()}">' if png else ""
    counts = list(result.counts.items())
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{count}</td></tr>" for name, count in counts[:_LISTED])
    more = f"<tr><td>and {len(counts) - _LISTED} more classes</td><td></td></tr>" if len(counts) > _LISTED else ""
    name = escape(result.path.name if result.path else "image")
    head = f"<p>{name}, {result.size[1]} x {result.size[0]} pixels, {len(result)} objects</p>"
    return f"<div>{head}{image}<table><tr><th>class</th><th>objects</th></tr>{rows}{more}</table></div>"
