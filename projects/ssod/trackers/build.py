"""Builds the writers of `SSOD.WRITERS`, and keeps the runs' ids in OUTPUT_DIR, with which a resumed
run continues in the tracker.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Type

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter

from ssod.errors import UserError
from ssod.trackers.base import RunInfo, Tracker, TrackerWriter
from ssod.trackers.mlflow_tracker import MlflowTracker
from ssod.trackers.wandb_tracker import WandbTracker
from ssod.utils.atomic import write_atomically
from ssod.utils.run_folder import weights_of

logger = logging.getLogger(__name__)

TRACKERS: Dict[str, Type[Tracker]] = {kind.name: kind for kind in (WandbTracker, MlflowTracker)}
IDS_FILE = "trackers.json"
# Files that describe the final model.
_BESIDE = ("config.yaml", "results.json")


def check_trackers(names: Sequence[str]) -> None:
    """Raises `UserError` for a tracker that does not exist or is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(
                f"SSOD.WRITERS has {name!r}: use {' or '.join(TRACKERS)}. (Console, metrics.json and TensorBoard are always "
                "written.)"
            )
        kind = TRACKERS[name]
        if importlib.util.find_spec(kind.package) is None:
            raise UserError(
                f"SSOD.WRITERS has {name!r}, and {kind.package} is not installed: pip install {kind.install}, or take it out "
                "of the list."
            )


def build_trackers(cfg: CfgNode) -> List[EventWriter]:
    """A started writer for each name in `SSOD.WRITERS`. Rank 0 alone calls it."""
    names = list(dict.fromkeys(cfg.SSOD.WRITERS))
    check_trackers(names)
    ids = _read_ids(cfg.OUTPUT_DIR)
    writers: List[EventWriter] = []
    for name in names:
        writer = TrackerWriter(TRACKERS[name]())
        number = writer.start(
            RunInfo(
                name=_run_name(cfg.OUTPUT_DIR),
                folder=cfg.OUTPUT_DIR,
                config=yaml.safe_load(cfg.dump()),
                former_id=ids.get(name),
            )
        )
        writers.append(writer)
        if number is not None:
            ids[name] = number
    if names:
        path = os.path.join(cfg.OUTPUT_DIR, IDS_FILE)
        write_atomically(path, lambda file: file.write(json.dumps(ids).encode()))
    return writers


def end_trackers(
    writers: Sequence[EventWriter],
    status: str,
    output_dir: str,
    results: Optional[Mapping[str, Any]],
    step: int,
) -> None:
    """Ends the runs in all trackers among the writers.

    Args:
        status: "finished", "interrupted" or "failed". results: of the last evaluation. step: the
            last.
    """
    trackers = [writer for writer in writers if isinstance(writer, TrackerWriter)]
    if not trackers:
        return
    paths = _final_files(output_dir) if status == "finished" else []
    for writer in trackers:
        writer.end(status, results or {}, step, paths)


def _final_files(output_dir: str) -> List[str]:
    try:
        found = [weights_of(output_dir)]
    except UserError:
        found = []
    beside = (os.path.join(output_dir, name) for name in _BESIDE)
    return found + [path for path in beside if os.path.isfile(path)]


def _run_name(output_dir: str) -> str:
    """The folder as it is written in the config, without "output/" before it."""
    parts = os.path.normpath(output_dir).split(os.sep)
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == "output" else parts[-2:])


def _read_ids(output_dir: str) -> Dict[str, str]:
    try:
        with open(os.path.join(output_dir, IDS_FILE)) as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}
