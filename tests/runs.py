"""Whole runs of the tiny detector and how to compare them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Dict, Optional, Tuple

import torch
from detectron2.config import CfgNode

import toy_method  # noqa: F401  (registers Toy)
from ssod.engine.trainer import SSODTrainer
from ssod.methods import METHOD_REGISTRY, build_methods
from tiny import tiny_cfg, with_squares

build_methods(tiny_cfg())  # registers all
METHOD_NAMES = sorted(name for name, _ in METHOD_REGISTRY)


def state_of(trainer: SSODTrainer) -> Dict[str, torch.Tensor]:
    """Student, teacher and methods."""
    core = trainer.core
    parts = {"student": core.student, "teacher": core.teacher, "methods": core.methods}
    return {
        f"{p}.{k}": v.clone() for p, module in parts.items() for k, v in module.state_dict().items()
    }


def digest(state: Dict[str, torch.Tensor]) -> str:
    """Equal only for bit-identical states."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(name.encode() + state[name].numpy().tobytes())
    return sha.hexdigest()


def quota_free(cfg: CfgNode) -> CfgNode:
    """Every anchor and RoI takes part, equally many in each image, so that ranks or micro-batches add up exactly."""
    cfg.merge_from_list(
        [
            *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000, "MODEL.RPN.POSITIVE_FRACTION", 1.0),
            *(
                "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
                100_000,
                "MODEL.ROI_HEADS.POSITIVE_FRACTION",
                1.0,
            ),
            *("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 20),
            *("MODEL.RPN.NMS_THRESH", 1.0, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 1),
        ]
    )
    return cfg


def train(cfg: CfgNode, resume: bool = False, until: Optional[int] = None) -> SSODTrainer:
    """A whole run, or one that stops after step `until`."""
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    if until is not None:
        trainer.max_iter = until
    trainer.train()
    return trainer


def with_selector(names: Tuple[str, ...]) -> Tuple[str, ...]:
    """Adds the fixed threshold where nothing chooses pseudo-labels, and what a method requires."""
    for name in names:
        names += tuple(r for r in METHOD_REGISTRY.get(name).requires if r not in names)
    if any(METHOD_REGISTRY.get(name).selects_pseudo_labels for name in names):
        return names
    return ("ScoreThreshold", *names)


def method_cfg(squares: Path, output: Path, names: Tuple[str, ...], steps: int) -> CfgNode:
    """A run of `names` and what they need, with thresholds that an untrained detector passes."""
    cfg = with_squares(tiny_cfg(), squares, output, with_selector(names))
    cfg.merge_from_list(
        ["SOLVER.MAX_ITER", steps, "SSOD.BURN_IN_STEPS", 1, "SSOD.SCORE_THRESHOLD", 0.05]
    )
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "SSOD.SNAPSHOT_DELAY", 2])
    # Those that must lie below the main branch's.
    cfg.merge_from_list(["SSOD.PIM.SCORE_THRESHOLD", 0.04, "SSOD.AREA_MINING.LOW_THRESHOLD", 0.04])
    return cfg
