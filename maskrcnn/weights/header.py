"""What the header of a safetensors file says, read without PyTorch: `maskrcnn info` answers at once.

The file begins with the length of its header, a JSON with the place and shape of every tensor and with free texts. Ours
is one text, which holds everything but the weights.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import convert

from ..categories import Category
from ..config import ModelConfig, from_dict
from ..errors import CheckpointError, ConfigError
from ..files import open_regular
from ..thresholds import Thresholds

FORMAT = 2
KEY = "maskrcnn"

_LONGEST = 100 * 2**20  # bytes of a header, as in safetensors itself


class Described(NamedTuple):
    """All that a checkpoint holds but its tensors."""

    config: ModelConfig
    categories: tuple[Category, ...]
    provenance: dict[str, Any]
    thresholds: Thresholds


class Header(NamedTuple):
    """The header of one of our checkpoints."""

    described: Described
    shapes: dict[str, tuple[int, ...]]  # of the tensors

    @property
    def parameters(self) -> int:
        """How many numbers can be learned: all but statistics, counts, and frozen norms, which keep no count."""
        ends = ("running_mean", "running_var", "num_batches_tracked")
        norms = {name.removesuffix("running_mean") for name in self.shapes if name.endswith("running_mean")}
        frozen = {norm for norm in norms if f"{norm}num_batches_tracked" not in self.shapes}
        return sum(
            math.prod(shape)
            for name, shape in self.shapes.items()
            if not name.endswith(ends) and name.removesuffix("weight").removesuffix("bias") not in frozen
        )


def describe(content: Mapping[str, Any], path: str | Path) -> Described:
    """The JSON of a checkpoint of ours, checked. Raises `CheckpointError` with file and reason."""
    try:
        config = from_dict(ModelConfig, content["model"])
        every = [Category._field_defaults | row for row in content["categories"]]
        rows = [[row[field] for field in Category._fields] for row in every]
        categories = convert(rows, tuple[Category, ...])
        provenance = dict(content["provenance"])
        thresholds = convert(content.get("thresholds", ()), Thresholds)
        if thresholds and len(thresholds) != len(categories):
            raise ValueError(f"{len(thresholds)} score thresholds for {len(categories)} classes")
        if not all(0 <= value <= 1 for value in thresholds):
            raise ValueError(f"score thresholds lie between 0 and 1, not {list(thresholds)}")
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: its settings or categories are wrong: {error}") from error
    return Described(config, categories, provenance, thresholds)


def read_header(path: str | Path) -> Header | None:
    """The header of a checkpoint of ours; None for any other file. The weights are neither read nor checked.

    Raises `CheckpointError` naming the file if it cannot be read, or is cut short.
    """
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 0 < length <= _LONGEST else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        tensors = json.loads(text)
        header = json.loads(tensors.pop("__metadata__")[KEY])
        found, content = header["format"], json.loads(header["content"])
        shapes = {name: tuple(row["shape"]) for name, row in tensors.items()}
        end = 8 + length + max((row["data_offsets"][1] for row in tensors.values()), default=0)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return None  # those who read the whole file say what is wrong
    check_format(found, FORMAT, path)
    if (size := Path(path).stat().st_size) != end:
        raise CheckpointError(f"{path} is damaged: it has {size} bytes, and its header speaks of {end}")
    return Header(describe(content, path), shapes)


def check_format(found: Any, known: int, path: str | Path) -> None:
    """Raises `CheckpointError` for a file of another version."""
    if found != known:
        raise CheckpointError(f"{path} has format {found!r}; this release reads {known}")
