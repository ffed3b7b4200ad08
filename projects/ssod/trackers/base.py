"""The interface of a tracker, and the event writer that feeds it and survives its failures."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage

logger = logging.getLogger(__name__)

# Values with a smoothing hint are medians over so many steps, as TensorBoard's are.
_WINDOW = 20


@dataclass(frozen=True)
class RunInfo:
    """What a tracker gets to know of a run at its start.

    Args:
        name: shown in the tracker. folder: OUTPUT_DIR. config: nested, of plain values.
        former_id: of the run that is resumed; None for a new one.
    """

    name: str
    folder: str
    config: Mapping[str, Any]
    former_id: Optional[str] = None


class Tracker(ABC):
    """A connection to one tracker. Every method may raise any exception."""

    name: ClassVar[str]  # in SSOD.WRITERS
    package: ClassVar[str]  # what it imports
    install: ClassVar[str]  # what pip installs

    @abstractmethod
    def start(self, run: RunInfo) -> str:
        """Begins a run, or continues the former one. Returns the run's id."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values of one step, counted from 0."""

    @abstractmethod
    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture, (H, W, 3) uint8 RGB."""

    @abstractmethod
    def files(self, paths: Sequence[str]) -> None:
        """Stores the final model and the files that describe it."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """Ends the run.

        Args:
            status: "finished", "interrupted" or "failed".
        """


class TrackerWriter(EventWriter):
    """Hands the event storage on to a tracker.

    The first exception of the tracker is logged in one line. From then on nothing more is sent, and
    training goes on.

    Detectron2 closes its writers before the last evaluation. So `close` leaves the run open, and
    `end` ends it.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.failed = False
        self._last_step = -1

    def start(self, run: RunInfo) -> Optional[str]:
        """The id of the run; None where the tracker failed."""
        return self._attempt("start", lambda: self.tracker.start(run))

    def write(self) -> None:
        storage = get_event_storage()
        by_step: Dict[int, Dict[str, float]] = {}
        for name, (value, step) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if step > self._last_step:
                by_step.setdefault(step, {})[name] = float(value)
        for step in sorted(by_step):
            values = by_step[step]
            self._attempt("scalars", lambda: self.tracker.scalars(values, step))
            self._last_step = step
        # TensorBoard's writer, which comes later, empties the list.
        for name, pixels, step in list(getattr(storage, "_vis_data", ())):
            shown = to_rgb(pixels)
            self._attempt("image", lambda: self.tracker.image(name, shown, step))

    def close(self) -> None:
        """Does nothing: see `end`."""

    def end(self, status: str, results: Mapping[str, Any], step: int, paths: Sequence[str]) -> None:
        """Sends the results of the last evaluation and the final model, and ends the run.

        Args:
            results: by dataset and task, as Detectron2's evaluators give them. step: the last.
            paths: of files.
        """
        values = {
            f"test/{dataset}/{task}/{name}": float(value)
            for dataset, tasks in results.items()
            for task, metrics in tasks.items()
            for name, value in metrics.items()
        }
        if values:
            self._attempt("scalars", lambda: self.tracker.scalars(values, step))
        if paths:
            self._attempt("files", lambda: self.tracker.files(paths))
        # Also after a failure, because a run that stays open looks as if it went on.
        failed, self.failed = self.failed, False
        if failed:
            try:
                self.tracker.finish("failed")
            except Exception:  # the tracker's first failure has been logged
                pass
        else:
            self._attempt("finish", lambda: self.tracker.finish(status))

    def _attempt(self, what: str, call: Callable[[], Any]) -> Any:
        if self.failed:
            return None
        try:
            return call()
        except Exception as error:
            self.failed = True
            text = " ".join(str(error).split()) or "no reason given"
            logger.warning(
                f"SSOD.WRITERS: {self.tracker.name} gets nothing from here on, since its {what} failed "
                f"({type(error).__name__}: {text[:300]}). Training goes on."
            )
            return None


def to_rgb(pixels: Any) -> np.ndarray:
    """A picture of the event storage, (3, H, W) uint8 or floats in [0, 1], as (H, W, 3) uint8."""
    array = np.asarray(pixels)
    if array.dtype != np.uint8:
        array = (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def flatten(config: Mapping[str, Any], prefix: str = "") -> List[Tuple[str, str]]:
    """Keys with dots and the values as text.

    Example:
        >>> flatten({"SOLVER": {"MAX_ITER": 3}})
        [('SOLVER.MAX_ITER', '3')]
    """
    rows: List[Tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
