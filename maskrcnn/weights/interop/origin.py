"""What is known of one place that checkpoints come from; `from_torchvision.py` and its neighbours say it for theirs."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ...config import ModelConfig
from .names import Row


class Origin(NamedTuple):
    """A naming, an order of rows, and the numbers its checkpoints were trained with."""

    name: str
    recognise: Callable[[Collection[str]], bool]  # whether these are names of its tensors
    backbone_prefix: Callable[[Collection[str]], str]  # what a file of a backbone alone leaves out of its names
    table: Sequence[Row]
    ignored: re.Pattern[str]  # tensors that are no weights of a Mask R-CNN
    to_ours: Callable[[dict[str, Tensor]], dict[str, Tensor]]  # rows and norms, under our names
    settle: Callable[[ModelConfig, Mapping[str, Tensor], Mapping[str, Any]], ModelConfig]
    # Structure, their tensors and the rest of the file, to the config with the origin's switches.
