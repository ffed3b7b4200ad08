"""MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME choose the server and the experiment."""

from __future__ import annotations

import os
import re
import time
from typing import Any, Mapping, Sequence

import numpy as np

from ssod.trackers.base import RunInfo, Tracker, flatten

_EXPERIMENT = "ssod"
# MLflow's limits of a batch and of a value's text.
_BATCH, _LENGTH = 100, 500
# A server that does not answer must not delay the training. MLflow's defaults wait for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowTracker(Tracker):
    """One run of the experiment "ssod", or of MLFLOW_EXPERIMENT_NAME."""

    name = "mlflow"
    package = "mlflow"
    install = "mlflow-skinny"

    def start(self, run: RunInfo) -> str:
        for key, value in _PATIENCE.items():
            os.environ.setdefault(key, value)
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric: Any = Metric
        self._client: Any = mlflow.MlflowClient()
        if run.former_id is not None and self._continues(run.former_id):
            self._id = run.former_id
            return self._id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = str(self._client.create_run(experiment, run_name=run.name).info.run_id)
        rows = [
            Param(_allowed(key), value[:_LENGTH]) for key, value in flatten(run.config) if value
        ]
        for first in range(0, len(rows), _BATCH):
            self._client.log_batch(self._id, params=rows[first : first + _BATCH])
        return self._id

    def _continues(self, former: str) -> bool:
        """Opens a former run again. False if the tracker does not know it any more."""
        try:
            self._client.update_run(former, status="RUNNING")
        except Exception as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        rows = [self._metric(_allowed(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(rows), _BATCH):
            self._client.log_batch(self._id, metrics=rows[first : first + _BATCH])

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        from PIL import Image

        folder = re.sub(r"\W+", "_", name).strip("_")
        self._client.log_image(
            self._id, Image.fromarray(pixels), artifact_file=f"{folder}/{step:07d}.png"
        )

    def files(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._client.log_artifact(self._id, path, "model")

    def finish(self, status: str) -> None:
        if hasattr(self, "_id"):
            self._client.set_terminated(self._id, _STATUS[status])


def _allowed(name: str) -> str:
    """MLflow's names have letters, digits and `_-. /:`."""
    return re.sub(r"[^\w\-. /:]", "_", name)
