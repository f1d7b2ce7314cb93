"""Everything that can go wrong with a user's input or run, as one sentence each.

A message names the file, the id or the shape, says what was expected and what came. The command line
prints the sentence and exits with the error's code; nothing else in the package calls `sys.exit`.
"""


class MaskRCNNError(Exception):
    """Base of every error a user can cause or meet. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(MaskRCNNError):
    """A configuration, an argument or an option that does not exist, has the wrong type or contradicts another."""

    exit_code = 2


class DataError(MaskRCNNError):
    """Images or annotations that cannot be read or do not make sense."""

    exit_code = 2


class CheckpointError(MaskRCNNError):
    """A checkpoint that is truncated, of another model, or unsafe to read."""

    exit_code = 2


class TrainingError(MaskRCNNError):
    """A run that cannot go on, such as one whose loss is not finite."""
