"""Mask R-CNN: train on your own data, evaluate, predict boxes, masks and keypoints.

The public names are written out below. They are imported when they are first used, so that `import maskrcnn` costs
nothing and `maskrcnn --help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError, DataError, MaskRCNNError, TrainingError

if TYPE_CHECKING:
    from .config import TTA, Config, ModelConfig, TrainConfig
    from .data.convert import convert_data
    from .evaluation.run import evaluate
    from .model.parts import Parts
    from .predict import Predictor, load
    from .results import Result
    from .training.train import train

__version__ = "0.1.0"

__all__ = [
    "TTA",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "MaskRCNNError",
    "ModelConfig",
    "Parts",
    "Predictor",
    "Result",
    "TrainConfig",
    "TrainingError",
    "convert_data",
    "evaluate",
    "load",
    "train",
]

_HOMES = {
    "Config": "config",
    "ModelConfig": "config",
    "TrainConfig": "config",
    "Parts": "model.parts",
    "Predictor": "predict",
    "load": "predict",
    "Result": "results",
    "TTA": "config",
    "convert_data": "data.convert",
    "evaluate": "evaluation.run",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'maskrcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
