"""Evaluation of weights without training: `--eval-only`."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Any, Optional

from detectron2.config import CfgNode
from detectron2.utils import comm

from ssod.engine.loading import load_detector
from ssod.engine.skipped import write_skipped
from ssod.errors import UserError
from ssod.evaluation import evaluate
from ssod.evaluation.build import format_metrics, prepare_evaluation

logger = logging.getLogger(__name__)


def evaluate_checkpoint(cfg: CfgNode, role: Optional[str]) -> "OrderedDict[str, Any]":
    """Evaluates MODEL.WEIGHTS, a file or a finished run's folder, on DATASETS.TEST and logs the
    results.

    Args:
        role: "teacher" (which None means too) or "student" of a full checkpoint. Use None for a
            weights file.
    """
    if not cfg.MODEL.WEIGHTS:
        raise UserError(
            "--eval-only needs weights: add MODEL.WEIGHTS and a file, or the OUTPUT_DIR of a finished run."
        )
    if not cfg.DATASETS.TEST:
        raise UserError("--eval-only needs a dataset: add DATASETS.TEST.")
    prepare_evaluation(cfg, ("TEST",))
    model = load_detector(cfg, cfg.MODEL.WEIGHTS, role)
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", "eval_only")
    results = evaluate(cfg, model, list(cfg.DATASETS.TEST), folder)
    write_skipped(cfg, report=True)
    if comm.is_main_process():
        for dataset, tasks in results.items():
            for task, metrics in tasks.items():
                logger.info(f"{dataset} {task}: {format_metrics(metrics)}")
    return results
