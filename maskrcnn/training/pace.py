"""How long the rest of a run will take: the steps at their pace so far, and the evaluations at theirs."""

import math

from .run import Run

WARM_UP = 2  # steps after a start that take longer than others: kernels are compiled, caches and workers are empty
FIRST_LINES = (1, WARM_UP + 2)  # steps after a start that are reported whatever `train.log_every` is


class Pace:
    """The pace since this start, because a run may go on on another machine.

    `evaluations` are the seconds of those that were made; a list that grows.
    """

    def __init__(self, run: Run, step: int, seconds: float, evaluations: list[float]) -> None:
        self._run, self._start, self._step, self._seconds = run, step, step, seconds
        self.evaluations = evaluations

    def is_early(self, step: int) -> bool:
        """Whether a line after this step tells a user soon that the run has begun, and how long it will take."""
        return self._run.config.train.log_every > 0 and step - self._start in FIRST_LINES

    def add(self, step: int, seconds: float) -> None:
        """After every step: `seconds` of training are over."""
        if step - self._start <= WARM_UP:
            self._step, self._seconds = step, seconds

    def rest(self, step: int, seconds: float) -> tuple[float | None, int]:
        """Seconds to the end of the run, None during warm-up, and how many evaluations are left out of them because
        none was made yet. With `train.patience` a run may end earlier.
        """
        coming = evaluations_between(step, self._run.steps, self._run)
        if step == self._step:
            return None, coming
        left = (seconds - self._seconds) / (step - self._step) * (self._run.steps - step)
        if not self.evaluations:
            return left, coming
        return left + coming * sum(self.evaluations) / len(self.evaluations), 0


def evaluations_between(step: int, end: int, run: Run) -> int:
    """How many evaluations come after `step` and up to `end`, the last step of the run or one before it."""
    if run.val_data is None:
        return 0
    every, last = run.config.train.evaluate_every, end == run.steps and step < end
    passed = [math.floor(run.epochs_after(at) / every + 1e-9) if every > 0 else 0 for at in (step, end - last)]
    return passed[1] - passed[0] + last
