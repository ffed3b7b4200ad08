"""Averages the changes that methods report, and warns about methods that change nothing."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Dict, Sequence, Set, Tuple

from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage

from ssod.engine.activity import MEAN_PREFIX, PREFIX
from ssod.methods import InertPeriod, Method

logger = logging.getLogger(__name__)
# This is the period in which metrics are written, so the file has every value.
MEAN_STEPS = 20


@dataclass
class _Seen:
    """The step since which a method is inert, and sums of the teacher's statistics since then."""

    steps: int = 0
    best_score: float = 0.0
    candidates: float = 0.0
    selected: float = 0.0


class InertWatch(HookBase):
    """Warns once if a method's `activity` was 0 in a whole evaluation period, and writes its mean
    for the report.

    Args:
        methods: the methods to watch. start: the first step that counts, which is the first of
            mutual learning or of a supervised run.
        period: steps in a row.
    """

    def __init__(self, methods: Sequence[Method], start: int, period: int) -> None:
        self.methods = methods
        self.start = start
        self.period = max(1, period)
        self._seen: Dict[str, _Seen] = {method.name: _Seen() for method in methods}
        self._warned: Set[Tuple[str, str]] = set()

    def after_step(self) -> None:
        step, storage = self.trainer.iter, get_event_storage()
        latest = storage.latest()
        for method in self.methods:
            if PREFIX + method.name in latest:
                mean = storage.history(PREFIX + method.name).avg(MEAN_STEPS)
                storage.put_scalar(MEAN_PREFIX + method.name, mean, smoothing_hint=False)
        if step < self.start:
            return

        def now(key: str) -> float:
            value, written = latest.get(key, (0.0, -1))
            return float(value) if written == step else 0.0

        for method in self.methods:
            seen = self._seen[method.name]
            if now(PREFIX + method.name) > 0:
                self._seen[method.name] = _Seen()
                continue
            seen.steps += 1
            seen.best_score = max(seen.best_score, now("pseudo/best_score"))
            seen.candidates += now("pseudo/candidates_per_image")
            seen.selected += now("pseudo/boxes_per_image")
            if seen.steps == self.period:
                self._warn(method, seen, step + 1)
                self._seen[method.name] = _Seen()

    def _warn(self, method: Method, seen: _Seen, done: int) -> None:
        period = InertPeriod(
            steps=seen.steps,
            last_step=done,
            best_score=seen.best_score,
            candidates=seen.candidates / seen.steps,
            selected=seen.selected / seen.steps,
        )
        reason = method.inert_reason(period)
        # It warns once, unless there is another reason later, such as after a warm-up.
        key = (method.name, re.sub(r"[\d.]+", "", reason))
        if key in self._warned:
            return
        self._warned.add(key)
        logger.warning(
            f"{method.name} changed nothing in the {period.steps} steps up to {done}: {reason}."
        )
