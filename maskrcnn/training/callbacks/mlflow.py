"""MLflow. Its own environment variables choose where: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...config import flat
from . import Record, kept_id, numbers

_LONGEST, _MOST = 500, 100  # characters of a parameter, and parameters at once, that every store accepts


class MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, by default maskrcnn; a run that goes on here goes on there.

    The user's own active MLflow run, if there is one, is not touched.
    """

    def __init__(self, out: Path) -> None:
        import mlflow
        import mlflow.entities  # pyright: ignore[reportMissingImports]

        self._out, self._mlflow, self._entities = out, mlflow, mlflow.entities
        self._client: Any = None
        self._id = ""

    def on_start(self, record: Record) -> None:
        self._client = self._mlflow.MlflowClient()
        self._id = kept_id(self._out / "mlflow.txt", new=not record["step"], make=self._create)
        if record["step"]:
            self._client.update_run(self._id, status="RUNNING")
            return
        rows = [(name, str(value)[:_LONGEST]) for name, value in flat(record["settings"]).items()]
        for first in range(0, len(rows), _MOST):
            some = [self._entities.Param(name, value) for name, value in rows[first : first + _MOST]]
            self._client.log_batch(self._id, params=some)

    def on_step(self, record: Record) -> None:
        self._metrics({"step": record}, record["step"])

    def on_evaluation(self, record: Record) -> None:
        self._metrics({"evaluation": record}, record["step"])

    def on_images(self, record: Record) -> None:
        for name, image in record["images"].items():
            self._client.log_image(self._id, np.asarray(image), key=name.replace("/", "."), step=record["step"])

    def on_end(self, record: Record) -> None:
        if self._id:
            self._client.set_terminated(self._id, "FINISHED" if record["finished"] else "FAILED")

    def _create(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "maskrcnn")
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        return self._client.create_run(number, run_name=self._out.name).info.run_id

    def _metrics(self, record: Record, step: int) -> None:
        if self._id:
            now = int(time.time() * 1000)
            rows = [self._entities.Metric(name, value, now, step) for name, value in numbers(record).items()]
            self._client.log_batch(self._id, metrics=rows)
