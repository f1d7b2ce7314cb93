"""GeoJSON as QuPath reads and writes it: `NAME.geojson` for each image, in pixels of the image, y down.

An object is a feature with a polygon, or several, with holes. Annotations of a data set become QuPath's annotations,
predictions its detections, with the score among their measurements.
"""

import json
import uuid
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ...files import replacing
from ...ops.contour import signed_area
from ...visualize import object_colours
from ..dataset import Record, Shape
from ..shapes import shapes_of
from .writing import FormatWriter

_DIGITS = 3  # of coordinates after the point


class Writer(FormatWriter):
    """Writes `NAME.geojson`, in a folder for each split if there are several."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.classes = [
            {"name": category.name, "color": list(object_colours(np.array([category.id]))[0])}
            for category in self.categories
        ]

    def add(self, record: Record, split: str = "all") -> None:
        """Writes the file of an image."""
        self.count_lost(record)
        features = [self._feature(record, i) for i in range(len(record.labels))]
        image = _plain(record.name)
        names = image.with_suffix(".geojson").as_posix(), f"{image}.geojson"  # with both suffixes if the first is taken
        with replacing(self.folder(split) / self.free(split, names)) as temporary:
            temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
        self.place(record, self.folder(split))

    def _feature(self, record: Record, i: int) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "objectType": "annotation" if record.scores is None else "detection",
            "classification": self.classes[int(record.labels[i])],
        }
        if (score := record.score(i)) is not None:
            properties["measurements"] = {"score": round(score, 6)}
        if record.ignore[i]:
            properties["metadata"] = {"crowd": "true"}
        shapes = record.shapes[i] if record.shapes is not None else shapes_of(record.segmentations[i], record.size)
        return {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{record.name}#{int(record.annotation_ids[i])}")),
            "geometry": _geometry(shapes or [_rectangle(record.boxes[i])]),
            "properties": properties,
        }


def _plain(name: str) -> PurePosixPath:
    """The file name of an image as a path that leaves no folder: without drive, root and `..`."""
    parts = name.replace("\\", "/").split("/")
    return PurePosixPath(*(part for part in parts if part not in ("", ".", "..") and not part.endswith(":")))


def _geometry(shapes: Sequence[Shape]) -> dict[str, Any]:
    polygons = [[_ring(shape.outer, 1), *(_ring(hole, -1) for hole in shape.holes)] for shape in shapes]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _ring(points: np.ndarray, sign: int) -> list[list[float]]:
    """A closed ring whose area, x to the right and y up, has this sign, as the standard asks for (RFC 7946)."""
    points = points if signed_area(points) * sign >= 0 else points[::-1]
    return np.concatenate([points, points[:1]]).astype(np.float64).round(_DIGITS).tolist()


def _rectangle(box: np.ndarray) -> Shape:
    x1, y1, x2, y2 = box.tolist()
    return Shape(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), [])
