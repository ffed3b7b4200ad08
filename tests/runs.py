"""Whole runs of the tiny detector and how to compare them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Dict, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

import toy_method  # noqa: F401  (registers Toy)
from ssod.engine.trainer import SSODTrainer
from ssod.methods import METHOD_REGISTRY, build_methods
from tiny import tiny_cfg, with_squares

build_methods(tiny_cfg())  # registers all
# Turns the tiny detector into a tiny RetinaNet.
RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
    *("MODEL.RETINANET.NUM_CONVS", 1),
]
METHOD_NAMES = sorted(name for name, _ in METHOD_REGISTRY)
# The RoI heads that methods with a classifier of their own need.
ROI_HEADS = {"EQLv2": "SigmoidROIHeads", "C2AM": "CosineROIHeads", "DeFRCN": "DecoupledROIHeads"}
# All five papers at once.
FULL_STACK = (
    *("TwoStageFilter", "GradientThresholding", "CropBank", "PIM", "SelfDistillation"),
    *("GradientReweighting", "ClassRebalancingSampling"),
    *("UncertainNegatives", "BoundedDistillation"),
)


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
    """Every anchor and RoI takes part, equally many in each image, so that ranks or micro-batches
    add up exactly.
    """
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


def with_stored_labels(cfg: CfgNode, squares: Path, output: Path) -> CfgNode:
    """Trains on the true boxes of the unlabelled squares, stored with scores.

    On several ranks rank 0 writes them.
    """
    path = output / "stored.json"
    if comm.is_main_process():
        value = json.loads((squares / "unlabeled.json").read_text())
        for annotation in value["annotations"]:
            annotation["score"] = 0.8
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    comm.synchronize()
    cfg.SSOD.PSEUDO_LABELS, cfg.SSOD.BURN_IN_STEPS = str(path), 0
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
    """A run of `names` and what they need, in which thresholds divide the scores of an untrained
    detector.

    These are 0.1 to 0.25 in the first steps, and with EQL v2's sigmoids some 500 times lower. So
    each method has something to do: see `test_all_methods.py`.
    """
    high, low = (0.0004, 0.0002) if "EQLv2" in names else (0.2, 0.1)
    cfg = with_squares(tiny_cfg(), squares, output, with_selector(names))
    for name, heads in ROI_HEADS.items():
        if name in names:
            cfg.MODEL.ROI_HEADS.NAME = heads
    if "DeFRCN" in names:
        cfg.MODEL.RPN.HEAD_NAME, cfg.SSOD.DEFRCN.PHASE = "DecoupledRPNHead", "tuning"
    cfg.merge_from_list(["SOLVER.MAX_ITER", steps, "SSOD.BURN_IN_STEPS", 1])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "SSOD.SNAPSHOT_DELAY", 2])
    for _, kind in METHOD_REGISTRY:
        if kind.selects_pseudo_labels:
            cfg.merge_from_list([kind.selection_key, high])
    cfg.SSOD.PSEUDO_SCORE_FLOOR = low / 4
    # Those that must lie below the main branch's.
    cfg.merge_from_list(["SSOD.PIM.SCORE_THRESHOLD", low, "SSOD.AREA_MINING.LOW_THRESHOLD", low])
    cfg.merge_from_list(
        [
            *("SSOD.SOFT_TEACHER.REG_SCORE_THRESHOLD", low, "SSOD.SOFT_TEACHER.MAX_DEVIATION", 1.0),
            *("SSOD.GRADIENT_THRESHOLDING.BASE", high, "SSOD.GRADIENT_THRESHOLDING.LOW", low),
            *("SSOD.GMM_THRESHOLD.INITIAL", low, "SSOD.GMM_THRESHOLD.LOW", low / 4),
            *("SSOD.LABEL_MATCH.INITIAL_THRESHOLD", high, "SSOD.AREA_MINING.MIN_AREA", 100.0),
            # The scale multiplies what an untrained classifier learns in its first steps.
            *("SSOD.C2AM.SCALE", 6.0),
            *("SSOD.DASO.WARMUP_STEPS", 0, "SSOD.DASO.SCORE_THRESHOLD", high),
            *("SSOD.DASO.QUEUE_SIZE", 3, "SSOD.DASO.RPN_SCORE_THRESHOLD", high),
            *("SSOD.DISTRIBUTION_ALIGNMENT.SCORE_THRESHOLD", high),
            *("SSOD.DISTRIBUTION_ALIGNMENT.RPN_SCORE_THRESHOLD", high),
            *("SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 1, "SSOD.GRADIENT_REWEIGHTING.LR", 0.2),
            *("SSOD.GRADIENT_THRESHOLDING.WARMUP_STEPS", 0, "SSOD.LABEL_MATCH.WARMUP_STEPS", 0),
            *("SSOD.CLASS_REBALANCING_SAMPLING.WARMUP_STEPS", 0),
            *("SSOD.GRADIENT_THRESHOLDING.RPN_SCORE_THRESHOLD", high),
            *("SSOD.LABEL_MATCH.RPN_SCORE_THRESHOLD", high),
            *(
                "SSOD.CLASS_REBALANCING_SAMPLING.GENERATIONS",
                2,
                "SSOD.CROP_BANK.SNAPSHOT_PERIOD",
                1,
            ),
            # Rare is what is not in every labelled image; scores barely above a threshold ask for
            # repeats.
            *("SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD", 1.0),
            # Divides the classes, whose image-level activations begin at their priors, 0.375 to
            # 0.5.
            *("SSOD.TWO_STAGE_FILTER.IMAGE_THRESHOLD", 0.44),
            *("SSOD.CLASS_REBALANCING_SAMPLING.GAMMA", 1e6),
        ]
    )
    return cfg
