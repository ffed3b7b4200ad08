"""The ranges and choices of config keys: Detectron2's, and those of the step."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Dict, Optional, Sequence

from ssod.methods import METHOD_REGISTRY
from ssod.ranges import COUNT, COUNT_OR_NONE, DECAY, NOT_NEGATIVE, POSITIVE, SHARE, Range

# Allowed ranges by key. "*" stands for any part of a key. Methods declare those of their own keys
# (`Method.ranges`).
RANGES: Dict[str, Range] = {
    "SOLVER.MAX_ITER": COUNT,
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.GRADIENT_ACCUMULATION_STEPS": COUNT,
    "SOLVER.CHECKPOINT_PERIOD": Range(1, whole=True, hint=" (SOLVER.MAX_ITER: only at the end)"),
    "SOLVER.BASE_LR": POSITIVE,
    "SOLVER.MOMENTUM": DECAY,
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_*": NOT_NEGATIVE,
    "SOLVER.BIAS_LR_FACTOR": NOT_NEGATIVE,
    "SOLVER.GAMMA": POSITIVE,
    "SOLVER.STEPS": COUNT_OR_NONE,
    "SOLVER.WARMUP_ITERS": COUNT_OR_NONE,
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.REFERENCE_WORLD_SIZE": Range(0, whole=True, hint=" (0: nothing is scaled)"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": POSITIVE,
    "DATALOADER.NUM_WORKERS": Range(0, whole=True, hint=" (0: the main process loads)"),
    "DATALOADER.REPEAT_THRESHOLD": NOT_NEGATIVE,
    "TEST.EVAL_PERIOD": Range(0, whole=True, hint=" (0: only at the end)"),
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "TEST.AUG.MIN_SIZES": COUNT,
    "TEST.AUG.MAX_SIZE": COUNT,
    "INPUT.MIN_SIZE_TRAIN": COUNT,
    "INPUT.MAX_SIZE_TRAIN": COUNT,
    "INPUT.MIN_SIZE_TEST": Range(0, whole=True, hint=" (0: images keep their size)"),
    "INPUT.MAX_SIZE_TEST": COUNT,
    "INPUT.CROP.SIZE": POSITIVE,
    "SEED": Range(-math.inf, 2**31 - 1, whole=True, hint=" (below 0: another seed each time)"),
    "MODEL.PIXEL_STD": POSITIVE,
    "MODEL.BACKBONE.FREEZE_AT": COUNT_OR_NONE,
    "MODEL.FPN.OUT_CHANNELS": COUNT,
    "MODEL.ANCHOR_GENERATOR.SIZES": POSITIVE,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": POSITIVE,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE,
    "MODEL.RPN.*_NMS_TOPK_*": COUNT,
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.RPN.IOU_THRESHOLDS": SHARE,
    "MODEL.RPN.*LOSS_WEIGHT": NOT_NEGATIVE,
    "MODEL.*.NUM_CLASSES": COUNT,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": SHARE,
    "MODEL.*.SCORE_THRESH_TEST": DECAY,
    "MODEL.*.NMS_THRESH_TEST": SHARE,
    "MODEL.*.BBOX_REG_WEIGHTS": POSITIVE,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": COUNT,
    "MODEL.ROI_BOX_HEAD.NUM_*": COUNT_OR_NONE,
    "MODEL.ROI_BOX_HEAD.*_DIM": COUNT,
    "MODEL.ROI_BOX_HEAD.*LOSS_WEIGHT": NOT_NEGATIVE,
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": SHARE,
    "MODEL.FCOS.NUM_CONVS": COUNT_OR_NONE,
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": POSITIVE,
    "MODEL.FCOS.PRIOR_PROB": Range(0, 1, above=True, below=True),
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": COUNT,
    "MODEL.DEFORMABLE_DETR.NUM_*": COUNT,
    "MODEL.RT_DETR.NUM_DENOISING": Range(0, whole=True, hint=" (0: no such queries)"),
    "MODEL.RT_DETR.NUM_*": COUNT,
    "MODEL.RT_DETR.ENC_LAYERS": COUNT_OR_NONE,
    "MODEL.RT_DETR.HIDDEN_EXPANSION": POSITIVE,
    "MODEL.RT_DETR.*_NOISE": SHARE,
    "MODEL.*DETR.DIM_FEEDFORWARD": COUNT,
    "MODEL.*DETR.HIDDEN_DIM": COUNT,
    "MODEL.*DETR.NHEADS": COUNT,
    "MODEL.*DETR.*_LAYERS": COUNT,
    "MODEL.*DETR.*_POINTS": COUNT,
    "MODEL.*DETR.*_WEIGHT": NOT_NEGATIVE,
    "MODEL.*DETR.*_COST": NOT_NEGATIVE,
    "MODEL.*DETR.DROPOUT": DECAY,
    "MODEL.*DETR.FOCAL_ALPHA": SHARE,
    "SSOD.BURN_IN_STEPS": COUNT_OR_NONE,
    "SSOD.IMS_PER_BATCH_UNLABELED": COUNT_OR_NONE,
    "SSOD.PSEUDO_SCORE_FLOOR": DECAY,
    "SSOD.FOCAL_GAMMA": NOT_NEGATIVE,
    "SSOD.SNAPSHOT_DELAY": COUNT,
    "SSOD.VIS_PERIOD": Range(0, whole=True, hint=" (0: no pictures)"),
    "SSOD.EMA.DECAY": DECAY,
    "SSOD.*_WEIGHT": NOT_NEGATIVE,
    "SSOD.*WARMUP_STEPS": COUNT_OR_NONE,
    "SSOD.MULTI_PHASE.PHASES": COUNT,
    "SSOD.MULTI_PHASE.*_IOU": SHARE,
    "SSOD.STRONG_AUGMENTATION.NOISE_SIGMA": NOT_NEGATIVE,
}

# Lists that must not be empty.
FILLED = ("INPUT.MIN_SIZE_TRAIN", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")

CHOICES: Dict[str, Sequence[str]] = {
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "SOLVER.AMP.DTYPE": ("auto", "float16", "bfloat16"),
    "SOLVER.OPTIMIZER": ("SGD", "AdamW"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    "SSOD.SELECT_FROM": ("teacher", "student"),
    "SSOD.ROI_CLS_LOSS": ("cross_entropy", "focal"),
}


# Keys of Detectron2 that nothing here reads -> why, and what to do. Only their default is allowed.
UNUSED: Dict[str, str] = {
    "TEST.AUG.ENABLED": "but evaluation uses one size and no flip: set it to False (labels of several sizes: "
    "SSOD.MULTI_PHASE.TEST_TIME_AUGMENTATION)",
    "TEST.PRECISE_BN.ENABLED": "but batch statistics are not measured again: set it to False",
    "TEST.EXPECTED_RESULTS": "but results are not compared with expected ones: leave it out",
    "MODEL.LOAD_PROPOSALS": "but proposals come from the RPN, not from files: set it to False",
    "DATASETS.PROPOSAL_FILES_TRAIN": "but proposals come from the RPN, not from files: leave it out",
    "DATASETS.PROPOSAL_FILES_TEST": "but proposals come from the RPN, not from files: leave it out",
    "VIS_PERIOD": "but pictures have a key of their own: leave it out and set SSOD.VIS_PERIOD",
}


def method_ranges() -> Dict[str, Range]:
    """The ranges that the registered methods declare, by the whole key."""
    return {
        f"SSOD.{method.config_key}.{name}": allowed
        for _, method in METHOD_REGISTRY
        for name, allowed in method.ranges.items()
    }


def allowed_range(key: str, of_methods: Dict[str, Range]) -> Optional[Range]:
    """The range of a key; None where every number is allowed.

    Args:
        of_methods: what `method_ranges` returns.
    """
    exact = of_methods.get(key) or RANGES.get(key)
    return exact or next((RANGES[name] for name in RANGES if fnmatchcase(key, name)), None)
