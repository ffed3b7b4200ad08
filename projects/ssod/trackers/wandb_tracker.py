"""Weights & Biases. Its environment variables choose the project, the mode and the server."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Mapping, Sequence

import numpy as np

from ssod.trackers.base import RunInfo, Tracker

_PROJECT = "ssod"
# How many seconds a network may take to answer.
_TIMEOUT = 60
_STEP = "iteration"


class WandbTracker(Tracker):
    """One run of the project "ssod", or of WANDB_PROJECT.

    Values are logged against "iteration", so that a resumed run may go over a step again.
    """

    name = "wandb"
    package = "wandb"
    install = "wandb"

    def start(self, run: RunInfo) -> str:
        import wandb

        self._wandb: Any = wandb
        mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
        if mode not in ("offline", "disabled", "dryrun") and not _logged_in(wandb):
            raise RuntimeError("no login: run `wandb login`, or set WANDB_MODE=offline")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            dir=run.folder,
            id=run.former_id,
            resume="allow",
            reinit="create_new",
            config=dict(run.config),
            allow_val_change=True,
            settings=_settings(wandb),
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        return str(self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, _STEP: step})

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Image(pixels), _STEP: step})

    def files(self, paths: Sequence[str]) -> None:
        name = re.sub(r"[^\w.-]", "-", f"ssod-{self._run.id}")
        artifact = self._wandb.Artifact(name, type="model")
        for path in paths:
            artifact.add_file(path)
        self._run.log_artifact(artifact)

    def finish(self, status: str) -> None:
        if hasattr(self, "_run"):
            self._run.finish(exit_code=0 if status == "finished" else 1)


def _logged_in(wandb: Any) -> bool:
    """Whether there is a key.

    It does not ask for one, because a training must not wait for an answer.
    """
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # before `prompt`
        return bool(wandb.api.api_key)


def _settings(wandb: Any) -> Any:
    wanted: Dict[str, Any] = {"init_timeout": _TIMEOUT, "finish_timeout": _TIMEOUT}
    known = getattr(wandb.Settings, "model_fields", {})
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in known})
