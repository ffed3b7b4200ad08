"""Starts a run from another run's full checkpoint, so that several runs share one burn-in."""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional

from detectron2.config import CfgNode
from torch import nn

from ssod.engine.loop import TrainLoop
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError

logger = logging.getLogger(__name__)

_PARTS = ("model", "teacher", "loop", "trainer")


def branch(
    data: Dict[str, Any],
    cfg: CfgNode,
    core: TeacherStudent,
    loop: TrainLoop,
    last_start: Optional[int],
) -> int:
    """Takes weights, teacher, optimiser, step and stream positions from a checkpoint.

    Parameters that only this run has (heads of its methods) start fresh.

    Args:
        data: the content of `SSOD.BURN_IN_CHECKPOINT`. core, loop: objects of this run, changed in
            place.
        last_start: the last step at which the run may start. None: any step.

    Returns:
        The step at which the run starts.

    Raises:
        UserError: the file is not a full checkpoint, holds another model, or is too old.
    """
    path = cfg.SSOD.BURN_IN_CHECKPOINT
    missing = [key for key in _PARTS if key not in data]
    if missing:
        raise UserError(
            f"SSOD.BURN_IN_CHECKPOINT {path} is not a full training checkpoint (no {missing[0]!r}): "
            "name a model_*.pth that training wrote."
        )
    _load(core.student, data["model"], path)
    _load(core.teacher, data["teacher"], path)
    loop.load_state_dict(data["loop"])
    if cfg.SEED >= 0:
        loop.seed = cfg.SEED
    start = data["trainer"]["iteration"] + 1
    if last_start is not None and start > last_start:
        raise UserError(
            f"SSOD.BURN_IN_CHECKPOINT {path} is {start} steps old, past SSOD.BURN_IN_STEPS "
            f"{last_start}: raise that key or name an earlier checkpoint."
        )
    logger.info(f"Branching from {path} at step {start}")
    return start


def _load(module: nn.Module, state: Dict[str, Any], path: str) -> None:
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(
            f"SSOD.BURN_IN_CHECKPOINT {path} holds another model ({detail}): name a checkpoint of this config's model."
        ) from None
    fresh = [name for name in found.missing_keys if not name.startswith("ssod_heads.")]
    if fresh:
        raise UserError(
            f"SSOD.BURN_IN_CHECKPOINT {path} holds another model (it lacks {fresh[0]}): name a checkpoint of this config's model."
        )
