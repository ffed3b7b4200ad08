"""The start of a new run: removes a former run's files, and warns of frozen untrained layers."""

from __future__ import annotations

import logging
import os
import shutil

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ssod.backbones.timm_builders import brings_weights
from ssod.trackers.build import IDS_FILE

logger = logging.getLogger(__name__)

_STALE = ("last_checkpoint", "results.json", "teacher_best.pth", IDS_FILE)


def clear_former_run(folder: str) -> None:
    """Removes a former run's files from OUTPUT_DIR. Otherwise someone might take its results and
    checkpoints for those of the new run. All ranks call this.
    """
    if comm.is_main_process():
        found = [name for name in _STALE if os.path.exists(os.path.join(folder, name))]
        if found:
            logger.warning(
                f"{folder} held another run, whose {', '.join(found)} are removed (--resume would have continued it)."
            )
        for name in found:
            os.remove(os.path.join(folder, name))
        shutil.rmtree(os.path.join(folder, "snapshots"), ignore_errors=True)
    comm.synchronize()


def warn_untrained(cfg: CfgNode, student: nn.Module) -> None:
    """Warns if untrained layers are frozen. Detectron2's default FREEZE_AT of 2 freezes layers."""
    if cfg.MODEL.WEIGHTS or brings_weights(cfg):
        return
    logger.info("MODEL.WEIGHTS is empty: training starts from random weights.")
    frozen = [name for name, value in student.named_parameters() if not value.requires_grad]
    if frozen:
        logger.warning(
            f"{len(frozen)} tensors such as {frozen[0]} are random and frozen: name weights in MODEL.WEIGHTS, or set "
            "FREEZE_AT to 0 (MODEL.BACKBONE.FREEZE_AT or MODEL.TIMM.FREEZE_AT)."
        )
