"""Checks the values of a config's keys before anything is built.

Methods check their own keys when they are built. This module checks Detectron2's keys, whose wrong
values would otherwise fail later.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode, get_cfg

from ssod.config import add_ssod_config
from ssod.errors import UserError
from ssod.methods import learns_from_unlabeled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Range:
    """Allowed numbers, of a key or of each element of a list.

    Attributes:
        low, high: bounds. They are allowed values themselves unless `above` and `below` exclude
            them.
        whole: only whole numbers are allowed. hint: another way to reach the user's aim.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    hint: str = ""

    def allows(self, value: float) -> bool:
        if self.whole and value != int(value):
            return False
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def __str__(self) -> str:
        if math.isinf(self.low):
            bounds = f"a number up to {self.high}"
        elif math.isinf(self.high):
            bounds = f"a number above {self.low:g}" if self.above else f"{self.low:g} or more"
        else:
            start = f"above {self.low:g}" if self.above else f"from {self.low:g}"
            bounds = f"a number {start} to {'below ' if self.below else ''}{self.high:g}"
        return f"use {bounds}{self.hint}"


COUNT = Range(1, whole=True)
COUNT_OR_NONE = Range(0, whole=True)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)
DECAY = Range(0, 1, below=True)

# Allowed ranges by key. "*" stands for any part of a key.
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
    "SSOD.TWO_STAGE_FILTER.WARMUP_STEPS": Range(-1, whole=True, hint=" (-1: the burn-in)"),
    "SSOD.SOFT_TEACHER.JITTER": NOT_NEGATIVE,
    "SSOD.SOFT_TEACHER.MAX_DEVIATION": NOT_NEGATIVE,
    "SSOD.MULTI_PHASE.PHASES": COUNT,
    "SSOD.MULTI_PHASE.*_IOU": SHARE,
    "SSOD.STRONG_AUGMENTATION.NOISE_SIGMA": NOT_NEGATIVE,
}

# Lists that must not be empty.
_FILLED = ("INPUT.MIN_SIZE_TRAIN", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")

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


def check_config(cfg: CfgNode) -> None:
    """Raises `UserError` for the first value that cannot be used.

    For every key of Detectron2 and of this project, it refuses empty values, infinite values and
    values of another type.
    """
    if "SSOD" not in cfg:
        raise UserError(
            "The config has no SSOD keys: call ssod.add_ssod_config(cfg) after get_cfg(), before files are merged."
        )
    defaults = get_cfg()
    add_ssod_config(defaults)
    for key, value, default in _leaves(cfg, defaults):
        _check_type(key, value, default)
        allowed = RANGES.get(key) or next(
            (RANGES[pattern] for pattern in RANGES if fnmatchcase(key, pattern)), None
        )
        numbers = _numbers(value)
        if key in _FILLED and not value:
            raise UserError(f"{key} is empty: give it a value or leave it out.")
        for number in numbers:
            if not math.isfinite(number):
                raise UserError(f"{key} is {number}: use a finite number.")
            if allowed is not None and value != default and not allowed.allows(number):
                where = "" if value is number else f" in {value}"
                whole = " (a whole number)" if allowed.whole and number != int(number) else ""
                raise UserError(f"{key} is {number}{where}: {allowed}{whole}.")
        if key in CHOICES:
            _check_choice(key, value, CHOICES[key])
    _check_together(cfg)
    _check_device(cfg.MODEL.DEVICE)


def _check_together(cfg: CfgNode) -> None:
    """Checks values that must fit each other."""
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {cfg.INPUT.MIN_SIZE_TRAIN}: with INPUT.MIN_SIZE_TRAIN_SAMPLING 'range' use two numbers."
        )
    steps = list(cfg.SOLVER.STEPS)
    if steps != sorted(set(steps)):
        raise UserError(
            f"SOLVER.STEPS is {cfg.SOLVER.STEPS}: each must be larger than the one before it."
        )
    size = cfg.INPUT.CROP.SIZE
    if cfg.INPUT.CROP.ENABLED and "relative" in cfg.INPUT.CROP.TYPE and max(size) > 1:
        raise UserError(
            f"INPUT.CROP.SIZE is {size}: with a relative INPUT.CROP.TYPE use shares above 0 to 1."
        )
    if len(cfg.MODEL.PIXEL_MEAN) != len(cfg.MODEL.PIXEL_STD):
        raise UserError(
            "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD differ in length: use one number a channel in each."
        )
    for part in ("RPN", "ROI_HEADS", "RETINANET"):
        node = cfg.MODEL[part]
        if len(node.IOU_LABELS) != len(node.IOU_THRESHOLDS) + 1:
            raise UserError(
                f"MODEL.{part}.IOU_THRESHOLDS is {node.IOU_THRESHOLDS} and IOU_LABELS is {node.IOU_LABELS}: use one label "
                "more than thresholds."
            )
        if list(node.IOU_THRESHOLDS) != sorted(node.IOU_THRESHOLDS):
            raise UserError(
                f"MODEL.{part}.IOU_THRESHOLDS is {node.IOU_THRESHOLDS}: use ascending numbers."
            )
    for part in ("RPN", "ROI_BOX_HEAD", "RETINANET"):
        weights = cfg.MODEL[part].BBOX_REG_WEIGHTS
        if len(weights) != 4:
            raise UserError(f"MODEL.{part}.BBOX_REG_WEIGHTS is {weights}: use four numbers.")
    if cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads":
        _check_cascade(cfg.MODEL)


def _check_cascade(model: CfgNode) -> None:
    """Checks the conditions that Detectron2 asserts for a cascade's stages."""
    node, key = model.ROI_BOX_CASCADE_HEAD, "MODEL.ROI_BOX_CASCADE_HEAD"
    if len(node.IOUS) != len(node.BBOX_REG_WEIGHTS) or not node.IOUS:
        raise UserError(
            f"{key}.IOUS and BBOX_REG_WEIGHTS have {len(node.IOUS)} and {len(node.BBOX_REG_WEIGHTS)} entries: use one a stage."
        )
    for weights in node.BBOX_REG_WEIGHTS:
        if not isinstance(weights, (list, tuple)) or len(weights) != 4:
            raise UserError(f"{key}.BBOX_REG_WEIGHTS has {weights}: use four numbers a stage.")
    if tuple(model.ROI_HEADS.IOU_THRESHOLDS) != (node.IOUS[0],):
        raise UserError(
            f"{key}.IOUS begins with {node.IOUS[0]:g} and MODEL.ROI_HEADS.IOU_THRESHOLDS is {model.ROI_HEADS.IOU_THRESHOLDS}: "
            "the first stage needs one threshold, the same in both."
        )


def _check_choice(key: str, value: Any, choices: Sequence[str]) -> None:
    if isinstance(value, str):
        if value not in choices:
            raise UserError(f"{key} is {value!r}: use {' or '.join(map(repr, choices))}.")
    elif not value or set(value) - set(choices):
        alone = ", ".join(repr((choice,)) for choice in choices)
        raise UserError(f"{key} is {tuple(value)}: use {alone} or several of them.")


def _leaves(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[Tuple[str, Any, Any]]:
    """(key, value, default) of the keys that have a default. Declared datasets are checked when
    they are read.
    """
    for name, default in defaults.items():
        key = prefix + name
        if name not in cfg:
            raise UserError(
                f"The config has no {key}: call ssod.add_ssod_config(cfg) on detectron2.config.get_cfg()."
            )
        if isinstance(default, CfgNode) and isinstance(cfg[name], CfgNode):
            yield from _leaves(cfg[name], default, f"{key}.")
        else:
            yield key, cfg[name], default


def _check_type(key: str, value: Any, default: Any) -> None:
    if default is None:
        return
    if value is None:
        raise UserError(f"{key} is empty: give it a value or leave it out.")
    kinds: Tuple[type, ...] = (type(default),)
    if isinstance(default, (list, tuple)):
        kinds = (list, tuple)
    elif isinstance(default, bool):
        kinds = (bool, int)
    elif isinstance(default, (int, float)):
        kinds = (int, float)
    if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UserError(f"{key} is {value!r}: {wanted_type(default)}.")
    if isinstance(default, (list, tuple)) and _items(default):
        if all(_is_number(item) for item in _items(default)):
            wrong = [item for item in _items(value) if not _is_number(item)]
            if wrong:
                raise UserError(f"{key} is {value}: use numbers, not {wrong[0]!r}.")
    if key.startswith("DATASETS.") and isinstance(value, (list, tuple)):
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"{key} names {name!r}: use the names of datasets.")


def wanted_type(default: Any) -> str:
    """Says how a user writes a value of this type."""
    if isinstance(default, bool):
        return "use True or False"
    if isinstance(default, (int, float)):
        return "use a whole number" if isinstance(default, int) else "use a number"
    if isinstance(default, str):
        return "use text"
    if isinstance(default, (list, tuple)):
        return "use a list, as in ['a', 'b'] or [1, 2]"
    return "use keys and values"


def _items(value: Any) -> List[Any]:
    """The value itself, or the elements of a list and of the lists in it."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _items(part)]
    return [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(value: Any) -> List[float]:
    return [item for item in _items(value) if _is_number(item)]


def _check_device(name: str) -> None:
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in ("cuda", "cpu"):
        raise UserError(f"MODEL.DEVICE is {name!r}: use cuda or cpu.")


def check_device_present(name: str) -> None:
    """Raises `UserError` unless this machine has the GPU that MODEL.DEVICE names."""
    device = torch.device(name)
    if device.type != "cuda":
        return
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if present == 0:
        raise UserError(
            "MODEL.DEVICE is cuda, but PyTorch finds no GPU here: add MODEL.DEVICE cpu to the command."
        )
    if device.index is not None and device.index >= present:
        raise UserError(
            f"MODEL.DEVICE is {name}, but this machine's GPUs are cuda:0 to cuda:{present - 1}: name one of them."
        )


def warnings_about(cfg: CfgNode) -> List[str]:
    """One warning for each setting that is allowed but is probably a mistake."""
    found: List[str] = []
    labels = learns_from_unlabeled(cfg)
    if labels and cfg.SSOD.BURN_IN_STEPS >= cfg.SOLVER.MAX_ITER:
        found.append(
            f"No unlabelled image will be used: SSOD.BURN_IN_STEPS {cfg.SSOD.BURN_IN_STEPS} is not below SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}. Lower the one or raise the other."
        )
    if cfg.DATASETS.UNLABELED and not labels:
        methods = ", ".join(cfg.SSOD.METHODS)
        reason = (
            f"none of SSOD.METHODS ({methods}) uses them" if methods else "SSOD.METHODS is empty"
        )
        found.append(
            f"No unlabelled image will be used: DATASETS.UNLABELED names {', '.join(cfg.DATASETS.UNLABELED)}, but {reason}, "
            "so training is supervised. Add ScoreThreshold, for example."
        )
    for key in ("TRAIN", "UNLABELED", "VAL", "TEST"):
        names = list(cfg.DATASETS[key])
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            found.append(f"DATASETS.{key} names {name} {names.count(name)} times: once is enough.")
    for key in ("VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            if labels and any(_same_files(cfg, own, name) for own in cfg.DATASETS.UNLABELED):
                found.append(
                    f"DATASETS.{key} {name} is learned from without its labels (DATASETS.UNLABELED): its AP says little "
                    "about other images."
                )
            same = next((own for own in cfg.DATASETS.TRAIN if _same_files(cfg, own, name)), None)
            if same is not None:
                what = "itself" if same == name else f"(the files of {same})"
                found.append(
                    f"DATASETS.{key} {name} {what} is trained on (DATASETS.TRAIN): its AP says nothing about other images."
                )
    return found


def _same_files(cfg: CfgNode, one: str, other: str) -> bool:
    if one == other:
        return True
    declared: Dict[str, Any] = cfg.SSOD.DATASETS
    first: Optional[Any] = declared.get(one)
    return first is not None and first == declared.get(other)
