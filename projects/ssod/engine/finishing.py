"""The end of a run: its best model, and the file of its results."""

from __future__ import annotations

import json
import logging
import os
from typing import Any, Dict, Mapping, Optional

from detectron2.utils import comm
from torch import nn

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.evaluation.build import format_metrics
from ssod.utils.atomic import write_atomically
from ssod.utils.comm import broadcast_from_main

logger = logging.getLogger(__name__)


def save_plain(checkpointer: SSODCheckpointer, name: str, model: nn.Module) -> None:
    """Writes a model's weights as plain Detectron2 weights, without methods' heads, on rank 0."""
    if comm.is_main_process():
        state = model.state_dict()
        plain = {key: value for key, value in state.items() if not key.startswith("ssod_heads.")}
        checkpointer.save_weights(name, plain)


def load_best(teacher: nn.Module, checkpointer: SSODCheckpointer, output_dir: str) -> None:
    """Loads `teacher_best.pth` into the teacher of every rank. Only rank 0 reads the file."""
    if comm.is_main_process():
        content = checkpointer.load_file(os.path.join(output_dir, "teacher_best.pth"))
        teacher.load_state_dict(content["model"], strict=False)
    broadcast_from_main(list(teacher.state_dict().values()))


def write_results(
    output_dir: str, results: Mapping[str, Any], best: Optional[Mapping[str, Any]], steps: int
) -> None:
    """Writes and logs results.json, on rank 0.

    Args:
        results: the evaluators' results by dataset. best: AP, step and model of the choice. None if
            the last teacher is the result. steps: number of steps of the run.
    """
    if not comm.is_main_process():
        return
    record: Dict[str, Any] = {"teacher_best": {**(best or {}), "test": results}, "steps": steps}
    path = os.path.join(output_dir, "results.json")
    write_atomically(path, lambda file: file.write(json.dumps(record, indent=1).encode()))
    which = f"Last teacher (step {steps})"
    if best is not None:
        which = f"Best {best['model']} (step {best['step']})"
    for dataset, tasks in results.items():
        logger.info(f"{which} on {dataset}: {format_metrics(tasks.get('bbox', {}))}")
        if "segm" in tasks:
            logger.info(f"{which} on {dataset}, masks: {format_metrics(tasks['segm'])}")
