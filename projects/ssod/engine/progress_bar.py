"""A bar for the steps of a training, below the lines of its log."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import Any, List

from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from tqdm.contrib.logging import logging_redirect_tqdm

from ssod.utils.progress import progress

_LOGGERS = ("ssod", "detectron2", "fvcore")


class TrainingBar(HookBase):
    """Counts steps on the terminal; the log's lines are written above it."""

    def before_train(self) -> None:
        self._open = ExitStack()
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        self._open.enter_context(logging_redirect_tqdm(loggers=loggers))
        self._bar: Any = self._open.enter_context(
            progress(title="training", total=self.trainer.max_iter, unit="step")
        )
        self._bar.update(self.trainer.start_iter)
        # Steps of an earlier call say nothing about this one's speed.
        self._bar.initial = self.trainer.start_iter

    def after_step(self) -> None:
        loss = get_event_storage().latest().get("total_loss")
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss[0]:.3g}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._open.close()


def training_bar() -> List[HookBase]:
    """The hook, where stderr is a terminal."""
    return [TrainingBar()] if sys.stderr.isatty() else []
