"""Reads the files that a run has written into its OUTPUT_DIR, without loading a model.

The run may be in progress. So every file may be missing, half-written or older than a resume.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from ssod.errors import UserError
from ssod.utils.step_files import StepFiles

Points = List[Tuple[int, float]]
_LOG_LINE = re.compile(r"\[(\d\d/\d\d \d\d:\d\d:\d\d)\] (\S+) (\w+): (.*)")
_SKIPPED = re.compile(r"Cannot use (.+\.\w+) \((.*)\); another image takes its place\.")
# A run whose files are older than so many seconds and so many steps has stopped.
_SILENT_SECONDS, _SILENT_STEPS = 300.0, 200.0


@dataclass
class RunData:
    """One run folder.

    Attributes:
        folder: its path. name: short and unique among the runs of a report.
        config: config.yaml as plain nested dicts; {} where it is missing.
        metrics: iteration -> metrics.json's values, ascending.
        results: results.json, written when training has finished.
        quality: the contents of pseudo_quality/step_<n>.json by step, ascending.
        log: (time "MM/DD hh:mm:ss", logger, level, text) of log.txt's lines.
        now: the time to which ages refer, in seconds since the epoch.
    """

    folder: str
    name: str
    config: Dict[str, Any] = field(default_factory=dict)
    metrics: Dict[int, Dict[str, float]] = field(default_factory=dict)
    results: Optional[Dict[str, Any]] = None
    quality: Dict[int, Dict[str, Any]] = field(default_factory=dict)
    log: List[Tuple[str, str, str, str]] = field(default_factory=list)
    now: float = 0.0

    def get(self, key: str, default: Any = None) -> Any:
        """A config value by its dotted key."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    def keys(self) -> List[str]:
        """Names of all metrics, sorted."""
        return sorted({key for values in self.metrics.values() for key in values})

    def series(self, key: str) -> Points:
        """(steps done, value) of one metric; NaN and infinity are left out."""
        return [
            (iteration + 1, float(values[key]))
            for iteration, values in self.metrics.items()
            if key in values and math.isfinite(values[key])
        ]

    def quality_series(self, key: str, labels: str = "selected") -> Points:
        """(step, value) of one of `summarise`'s numbers over the measured steps."""
        points = [(step, record.get(labels, {}).get(key)) for step, record in self.quality.items()]
        return [(step, value) for step, value in points if value is not None and value == value]

    @property
    def steps_done(self) -> int:
        return max(self.metrics, default=-1) + 1

    @cached_property
    def steps_total(self) -> int:
        """The number in the log, because a run on another number of GPUs is rescaled.

        Without a log, the config's.
        """
        for _, _, _, text in reversed(self.log):
            found = re.match(r"step \d+/(\d+)\b", text)
            if found:
                return int(found.group(1))
        return int(self.get("SOLVER.MAX_ITER", 0))

    @property
    def burn_in_end(self) -> Optional[int]:
        """The step at which mutual learning starts; None in a supervised run."""
        planned = self.get("SOLVER.MAX_ITER", 0)
        if not self.get("SSOD.METHODS") or not planned:
            return None
        return round(self.get("SSOD.BURN_IN_STEPS", 0) * self.steps_total / planned)

    @property
    def last_written(self) -> Optional[float]:
        """Seconds since the epoch."""
        paths = [os.path.join(self.folder, name) for name in ("metrics.json", "log.txt")]
        return max((os.path.getmtime(p) for p in paths if os.path.exists(p)), default=None)

    @property
    def state(self) -> str:
        """ "finished", "running" or "stopped"; the last also for a run that waits longer than any
        step takes.
        """
        if self.steps_total and self.steps_done >= self.steps_total:
            done = self.results is not None or not self.get("DATASETS.TEST")
            if done and os.path.exists(os.path.join(self.folder, "teacher_final.pth")):
                return "finished"
        step_time = [value for _, value in self.series("time")[-5:]]
        patience = max(_SILENT_SECONDS, _SILENT_STEPS * max(step_time, default=0.0))
        if self.last_written is not None and self.now - self.last_written < patience:
            return "running"
        return "stopped"

    @property
    def starts(self) -> List[str]:
        """Log times ("MM/DD hh:mm:ss") at which training was started or resumed."""
        return [
            when for when, logger, _, text in self.log if re.match(r"ssod \S+, Detectron2", text)
        ]

    @property
    def config_name(self) -> str:
        """The YAML that the run was started with, as the log has it; empty where unknown."""
        for _, _, _, text in reversed(self.log):
            found = re.match(r"ssod \S+, Detectron2 .* on \S+, (.*), output in ", text)
            if found:
                return found.group(1)
        return ""

    @property
    def warnings(self) -> List[Tuple[str, str]]:
        """(time, text) of the project's warnings other than about single image files."""
        return [
            (when, text)
            for when, logger, level, text in self.log
            if level in ("WARNING", "ERROR")
            and logger.startswith("ssod")
            and not _SKIPPED.match(text)
        ]

    @property
    def skipped_files(self) -> Dict[str, str]:
        """Image files that could not be read, with the reason: of the log, and of what evaluation
        left out.
        """
        found = (_SKIPPED.match(text) for _, _, _, text in self.log)
        logged = {match.group(1): match.group(2) for match in found if match}
        listed = _read_json(os.path.join(self.folder, "skipped_images.json"))
        return {**logged, **(listed if isinstance(listed, dict) else {})}

    @property
    def skipped_boxes(self) -> Dict[str, List[Dict[str, Any]]]:
        """Annotation file -> its boxes that could not be used: {"label", "reason", "image"}."""
        listed = _read_json(os.path.join(self.folder, "skipped_boxes.json"))
        return listed if isinstance(listed, dict) else {}

    def measured_ap(self) -> Dict[Tuple[str, str], Dict[str, float]]:
        """The teacher's metrics by (dataset, how measured): of the run's result at the end, or of
        the last evaluation.
        """
        best = (self.results or {}).get("teacher_best", {})
        tests = {
            (name, _result_name(best)): metrics_by_name(tasks)
            for name, tasks in best.get("test", {}).items()
            if tasks.get("bbox")
        }
        return tests or self._last_evaluation()

    def _last_evaluation(self) -> Dict[Tuple[str, str], Dict[str, float]]:
        names = self.get("DATASETS.VAL") or self.get("DATASETS.TEST") or [""]
        found = {}
        for name in names:
            prefix = f"{name}/teacher/" if len(names) > 1 else "teacher/"
            steps = [i for i, values in self.metrics.items() if f"{prefix}bbox/AP" in values]
            if steps:
                tasks: Dict[str, Dict[str, float]] = {"bbox": {}}
                for key, value in self.metrics[steps[-1]].items():
                    task, _, metric = key[len(prefix) :].partition("/")
                    if key.startswith(prefix) and task in ("bbox", "segm"):
                        tasks.setdefault(task, {})[metric] = value
                found[(name, f"teacher at step {steps[-1] + 1}")] = metrics_by_name(tasks)
        return found


def metrics_by_name(tasks: Mapping[str, Mapping[str, float]]) -> Dict[str, float]:
    """The metrics of a dataset in one dict: "AP" is that of boxes, "segm/AP" that of masks.

    Args:
        tasks: {"bbox": {"AP": ...}, "segm": {"AP": ...}}; "segm" only where masks were evaluated.
    """
    found = {name: float(value) for name, value in tasks["bbox"].items()}
    for task, metrics in tasks.items():
        if task != "bbox":
            found.update({f"{task}/{name}": float(value) for name, value in metrics.items()})
    return found


def _result_name(best: Dict[str, Any]) -> str:
    """The model that the numbers of results.json belong to.

    Only a run with DATASETS.VAL chooses one.
    """
    if "step" not in best:
        return "last teacher"
    return f"best {best.get('model', 'teacher')}, step {best['step']}"


def load_runs(folders: Sequence[str], now: Optional[float] = None) -> List[RunData]:
    """Reads run folders.

    Raises:
        UserError: a folder does not exist or is no run's.
    """
    given = {os.path.abspath(folder): folder for folder in folders}
    for path, folder in given.items():
        _check_folder(folder, path)
    paths = list(given)
    return [_load(path, name, now) for path, name in zip(paths, _short_names(paths))]


def _check_folder(folder: str, path: str) -> None:
    if not os.path.isdir(path):
        raise UserError(f"{folder} is no folder: give the OUTPUT_DIR of a training run.")
    if not _is_run(path):
        below = [name for name in sorted(os.listdir(path)) if _is_run(os.path.join(path, name))]
        hint = f"; it holds the runs {', '.join(below[:8])}" if below else ""
        raise UserError(
            f"{folder} has neither config.yaml nor metrics.json{hint}: give the OUTPUT_DIR of a training run."
        )


def _is_run(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, n)) for n in ("config.yaml", "metrics.json"))


def _short_names(paths: Sequence[str]) -> List[str]:
    """The last parts of each path, as many as the runs need to differ."""
    parts = [path.strip(os.sep).split(os.sep) for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _load(path: str, name: str, now: Optional[float]) -> RunData:
    return RunData(
        folder=path,
        name=name,
        config=_read_config(os.path.join(path, "config.yaml")),
        metrics=read_metrics(os.path.join(path, "metrics.json")),
        results=_read_results(os.path.join(path, "results.json")),
        quality=_read_quality(os.path.join(path, "pseudo_quality")),
        log=_read_log(os.path.join(path, "log.txt")),
        now=time.time() if now is None else now,
    )


def _read_config(path: str) -> Dict[str, Any]:
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML ({' '.join(str(error).split())}).") from None
    return content if isinstance(content, dict) else {}


def read_metrics(path: str) -> Dict[int, Dict[str, float]]:
    """iteration -> values.

    Lines of the same iteration are merged, later ones win; a half-written line is left out.
    """
    merged: Dict[int, Dict[str, float]] = {}
    if not os.path.exists(path):
        return merged
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
                iteration = int(record.pop("iteration"))
            except (ValueError, TypeError, AttributeError, KeyError):
                continue
            numbers = {k: v for k, v in record.items() if isinstance(v, (int, float))}
            merged.setdefault(iteration, {}).update(numbers)
    return dict(sorted(merged.items()))


def _read_json(path: str) -> Optional[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _read_results(path: str) -> Optional[Dict[str, Any]]:
    content = _read_json(path)
    best = content.get("teacher_best", {}) if isinstance(content, dict) else None
    return content if isinstance(best, dict) else None


def _read_quality(folder: str) -> Dict[int, Dict[str, Any]]:
    records = {step: _read_json(path) for step, path in StepFiles(folder, ".json").found()}
    return {step: record for step, record in records.items() if isinstance(record, dict)}


def _read_log(path: str) -> List[Tuple[str, str, str, str]]:
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        matches = (_LOG_LINE.match(line) for line in file)
        return [(m.group(1), m.group(2), m.group(3), m.group(4)) for m in matches if m]


def format_time(seconds: Optional[float]) -> str:
    """Local date and time; a dash for None."""
    if seconds is None:
        return "–"
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
