"""The errors that users meet.

A message is one sentence. It names the file, id or shape, what was expected and what was found. The command line prints
the notes of the error, such as the report of a data set, then the message, and exits with the error's `exit_code`;
nothing else in the package calls `sys.exit`.
"""


class MaskRCNNError(Exception):
    """Base class of all errors of this package. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(MaskRCNNError):
    """A setting, argument or option that does not exist, has the wrong type or contradicts another."""

    exit_code = 2


class DataError(MaskRCNNError):
    """Images or annotations that cannot be read or are invalid."""

    exit_code = 2


class CheckpointError(MaskRCNNError):
    """A checkpoint that is truncated, belongs to another model, or is unsafe to read."""

    exit_code = 2


class TrainingError(MaskRCNNError):
    """A training run that cannot continue, such as one whose loss is not finite."""


class WorkerLost(TrainingError):
    """A worker process that reads images has ended, or does nothing any more."""
