"""An image, or its result, as a notebook shows it."""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping
from html import escape

import numpy as np
from PIL import Image

from .errors import DataError

_SHOWN = 900  # pixels, the longest side of an image
_LISTED = 20  # classes


def crop(image: np.ndarray, box: np.ndarray, margin: float) -> Image.Image:
    """The part of an image, uint8 [H W 3], in a box, xyxy, that is `margin` of its sides larger at every side."""
    x1, y1, x2, y2 = box.astype(np.float64).tolist()
    wide, high = margin * (x2 - x1), margin * (y2 - y1)
    height, width = image.shape[:2]
    left, top = max(int(np.floor(x1 - wide)), 0), max(int(np.floor(y1 - high)), 0)
    right, bottom = min(int(np.ceil(x2 + wide)), width), min(int(np.ceil(y2 + high)), height)
    return Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))


def to_png(overlay: Callable[[], Image.Image]) -> bytes | None:
    """The overlay as a PNG for a notebook, or None if its image cannot be read."""
    try:
        drawn = overlay()
    except (DataError, ValueError):
        return None
    drawn.thumbnail((_SHOWN, _SHOWN))
    stored = io.BytesIO()
    drawn.save(stored, "PNG", compress_level=1)
    return stored.getvalue()


def to_html(title: str, counts: Mapping[str, int], overlay: Callable[[], Image.Image]) -> str:
    """A title, the overlay if its image can be read, and how many objects of each class there are."""
    png = to_png(overlay)
    image = f'<img alt="overlay" src="data:image/png;base64,{b64encode(png).decode()}">' if png else ""
    rows = [f"<tr><td>{escape(name)}</td><td>{count}</td></tr>" for name, count in counts.items()]
    more = f"<tr><td>and {len(rows) - _LISTED} more classes</td><td></td></tr>" if len(rows) > _LISTED else ""
    body = "".join(rows[:_LISTED])
    return f"<div><p>{escape(title)}</p>{image}<table><tr><th>class</th><th>objects</th></tr>{body}{more}</table></div>"
