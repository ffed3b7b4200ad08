"""Whole runs of the tiny detector and how to compare them."""

from __future__ import annotations

import hashlib
import json
import math
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
FCOS = [
    *("MODEL.META_ARCHITECTURE", "FCOS", "MODEL.FCOS.NUM_CLASSES", 3),
    *("MODEL.FCOS.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.FCOS.NUM_CONVS", 1),
    *("MODEL.FCOS.NORM", ""),  # GN fails on a single pixel of 32 channels
]
SSD = [
    *("MODEL.META_ARCHITECTURE", "SSD", "MODEL.SSD.NAME", "", "MODEL.SSD.NUM_CLASSES", 3),
    *("MODEL.SSD.SIZE", 64, "MODEL.SSD.IN_FEATURES", ("p2", "p3", "p4")),
    *("MODEL.SSD.ASPECT_RATIOS", ((2,), (2,), (2,)), "MODEL.SSD.SCALES", (0.2, 0.6)),
]
DENSE = {"RetinaNet": RETINANET, "FCOS": FCOS}
METHOD_NAMES = sorted(name for name, _ in METHOD_REGISTRY)
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
    """Adds the fixed threshold if no method selects, and the methods that others require."""
    for name in names:
        names += tuple(r for r in METHOD_REGISTRY.get(name).requires if r not in names)
    if any(METHOD_REGISTRY.get(name).selects_pseudo_labels for name in names):
        return names
    return ("ScoreThreshold", *names)


def method_cfg(squares: Path, output: Path, names: Tuple[str, ...], steps: int) -> CfgNode:
    """A run of `names` and what they need, in which each has something to do with what an untrained
    detector finds: see `Method.trial_config` and `test_all_methods.py`.
    """
    cfg = with_squares(tiny_cfg(), squares, output, with_selector(names))
    kinds = [METHOD_REGISTRY.get(name) for name in cfg.SSOD.METHODS]
    scale = math.prod(kind.trial_score_scale for kind in kinds)
    high, low = 0.2 * scale, 0.1 * scale
    cfg.merge_from_list(["SOLVER.MAX_ITER", steps, "SSOD.BURN_IN_STEPS", 1])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "SSOD.SNAPSHOT_DELAY", 2])
    cfg.SSOD.SCORE_THRESHOLD = high  # some methods read it where nothing selects by it
    for kind in kinds:
        kind.trial_config(cfg, high, low)
    cfg.SSOD.PSEUDO_SCORE_FLOOR = low / 4
    return cfg
