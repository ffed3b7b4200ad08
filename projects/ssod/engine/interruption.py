"""Handles Ctrl-C and SIGTERM. The current step is finished, a checkpoint is written, and the
process ends with the signal's code.

A second signal ends a single process at once. Several processes all finish the same step: a rank
tells the others about its signal when they exchange their losses.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Type

from detectron2.utils import comm

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal ended the program in an orderly way. The exit status is 128 + the signal's number,
    as in shells.

    Args:
        number: of the signal. at_once: it was a second signal, so that the step is not finished and
            nothing more is written.
    """

    def __init__(self, number: int, at_once: bool = False) -> None:
        super().__init__(128 + number)
        self.number, self.at_once = number, at_once


def name_of(number: int) -> str:
    """The signal's name in messages."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class OnSignal:
    """Calls `first` with the number of the first SIGINT or SIGTERM, and `again` with the number of
    each further one, while the context lasts.

    Outside the main thread it does nothing.
    """

    def __init__(self, first: Callable[[int], Any], again: Callable[[int], Any]) -> None:
        self.first, self.again = first, again
        self.number: Optional[int] = None
        self._former: Dict[int, Any] = {}

    def __enter__(self) -> "OnSignal":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def _handle(self, number: int, frame: Optional[FrameType]) -> None:
        if self.number is None:
            self.number = number
            self.first(number)
        else:
            self.again(number)

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}


def report_stop(stop: Interrupted, step: int, steps: int, output_dir: str) -> None:
    """Says on rank 0 where a signal ended the run, and how to go on.

    Args:
        step: index of the last step. steps: of the whole run; a `step` that is not below it means
            that all are done.
    """
    if not comm.is_main_process():
        return
    done = f"after step {step + 1} of {steps}; its checkpoint is in {output_dir}"
    if stop.at_once:
        done = f"at once, in step {step + 1} of {steps}; older checkpoints are in {output_dir}"
    if step >= steps:
        done = f"before the last evaluation; the trained models are in {output_dir}"
    logger.warning(
        f"Stopped by {name_of(stop.number)} {done}. The same command with --resume goes on from there."
    )


class StopRequest(OnSignal):
    """Remembers a signal. `number` is None until one comes."""

    def __init__(self) -> None:
        super().__init__(lambda number: None, self._end_at_once)

    @staticmethod
    def _end_at_once(number: int) -> None:
        # With several processes the parent ends them, because Ctrl-C reaches each of them twice.
        if comm.get_world_size() == 1:
            raise Interrupted(number, at_once=True)


class Interruptible:
    """A loader that raises `Interrupted` between two batches once a signal has come."""

    def __init__(self, loader: Iterable[Any], request: StopRequest) -> None:
        self.loader, self.request = loader, request

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.request.number is not None:
                raise Interrupted(self.request.number)
            yield batch
