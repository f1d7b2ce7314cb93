"""The size of a pixel in µm, as microscopes write it into a TIFF: OME-XML, ImageJ's, Aperio's, or the resolution."""

import html
import re
from collections.abc import Sequence
from typing import Any

_MICRONS = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "å": 1e-4,
    "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
_PER_UNIT = {2: "inch", 3: "cm"}  # of the tag ResolutionUnit
_FOR_SCREENS = (1, 72, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350)  # dots per inch that measure nothing


def pixel_size(description: str, y: Any, x: Any, unit: Any) -> tuple[float, float] | None:
    """(height, width) of a pixel in µm; None if it is not known, or only how large to print the image.

    Args:
        description: the tag ImageDescription.
        y, x, unit: the tags YResolution, XResolution and ResolutionUnit.
    """
    resolution = _ratio(y), _ratio(x)
    if "<OME" in description[:2000] or "<ome:OME" in description[:2000]:
        return _from_ome(description)
    if description.startswith("ImageJ="):
        return _sides(resolution, _imagej_unit(description))
    if found := re.search(r"\|\s*MPP\s*=\s*([\d.]+)", description):
        return _positive(_number(found[1]), _number(found[1]))
    name = _PER_UNIT.get(2 if unit is None else unit, "")
    per_inch = resolution[1] * (2.54 if name == "cm" else 1.0)
    return None if any(abs(per_inch - dots) < 0.01 * dots for dots in _FOR_SCREENS) else _sides(resolution, name)


def _from_ome(text: str) -> tuple[float, float] | None:
    """By a pattern: the XML is a stranger's, and two attributes are all that is needed."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", text)
    if pixels is None:
        return None
    stated = {name: html.unescape(value) for name, value in re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", pixels[1])}

    def side(axis: str) -> float:
        factor = _MICRONS.get(stated.get(f"PhysicalSize{axis}Unit", "µm").strip().lower().replace("μ", "µ"), 0.0)
        return _number(stated.get(f"PhysicalSize{axis}", "")) * factor

    return _positive(side("Y"), side("X"))


def _imagej_unit(description: str) -> str:
    found = re.search(r"^unit=(.*)$", description, re.MULTILINE)
    return found[1].strip().lower().replace("\\u00b5", "µ").replace("μ", "µ") if found else ""


def _sides(resolution: tuple[float, float], unit: str) -> tuple[float, float] | None:
    factor = _MICRONS.get(unit, 0.0)
    y, x = (factor / per_unit if per_unit > 0 else 0.0 for per_unit in resolution)
    return _positive(y, x)


def _positive(y: float, x: float) -> tuple[float, float] | None:
    return (y, x) if 0 < y < 1e9 and 0 < x < 1e9 else None


def _ratio(value: Any) -> float:
    """A rational tag, as a pair or as Pillow's fraction."""
    if isinstance(value, Sequence) and len(value) == 2:
        return _number(value[0]) / _number(value[1]) if _number(value[1]) else 0.0
    return _number(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, ArithmeticError):
        return 0.0
