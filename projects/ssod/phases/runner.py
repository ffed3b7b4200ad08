"""Runs the phases: label, train, label, train, ..., then the ensembles.

Finished parts are skipped.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
from typing import List, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ssod.engine.setup import load_config, setup
from ssod.engine.trainer import SSODTrainer
from ssod.phases.plan import Phase, check_unchanged, plan_phases
from ssod.phases.summary import summarise_phases
from ssod.pseudo_labels.ensemble import check_fusion
from ssod.pseudo_labels.labelling import label_images

logger = logging.getLogger(__name__)


def run_phases(config_file: str, opts: Sequence[str]) -> None:
    """Runs all of Algorithm 1. Call it on all ranks. The same call again continues.

    Files: OUTPUT_DIR/phase_<i>/ is an ordinary training run, with the pseudo_labels.json it was
    trained on; OUTPUT_DIR/predictions/ holds every model's predictions, made once. See
    `summarise_phases` for the rest.
    """
    cfg = load_config(config_file, opts)
    phases = plan_phases(cfg)
    check_fusion()
    check_unchanged(phases, config_file, opts)
    comm.synchronize()  # before any rank writes a config
    cache = os.path.join(cfg.OUTPUT_DIR, "predictions")
    for phase in phases:
        # Rank 0 decides, because some file systems show new files late to other machines.
        if comm.all_gather(phase.finished)[0]:
            continue
        _train(config_file, opts, phase, phases[: phase.index], cache)
    summarise_phases(cfg, config_file, phases, cache)


def _train(
    config_file: str, opts: Sequence[str], phase: Phase, earlier: Sequence[Phase], cache: str
) -> None:
    cfg = setup(argparse.Namespace(config_file=config_file, opts=[*opts, *phase.overrides]))
    logger.info(f"Phase {phase.index}: {' '.join(map(repr, phase.overrides))}")
    if earlier and not comm.all_gather(os.path.exists(phase.labels))[0]:
        weights: List[str] = [other.weights for other in earlier]
        label_images(
            cfg,
            weights,
            phase.labels,
            cache,
            tta=cfg.SSOD.MULTI_PHASE.TEST_TIME_AUGMENTATION,
            fraction=phase.fraction,
            keep_empty=False,
        )
    train_phase(cfg)


def train_phase(cfg: CfgNode) -> None:
    """Does one training run, from the start or from the point where it was stopped. Call it on all
    ranks.
    """
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    comm.synchronize()  # rank 0 has written the weights that all will read
    del trainer
    if torch.cuda.is_available():
        # A trainer and its hooks refer to each other, so collect them to free the GPU's memory.
        gc.collect()
        torch.cuda.empty_cache()
