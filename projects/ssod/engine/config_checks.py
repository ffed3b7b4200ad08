"""Checks the values of a config's keys before anything is built.

Methods check what their keys mean together when they are built. This module checks the type and the
range of every key, because a wrong value of Detectron2's would otherwise fail later.
"""

from __future__ import annotations

import math
from typing import Any, Iterator, Sequence, Tuple

import torch
from detectron2.config import CfgNode, get_cfg

from ssod.config import add_ssod_config
from ssod.engine.config_ranges import CHOICES, FILLED, UNUSED, allowed_range, method_ranges
from ssod.errors import UserError
from ssod.ranges import is_number, items_in, numbers_in


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
    of_methods = method_ranges()
    for key, value, default in _leaves(cfg, defaults):
        _check_type(key, value, default)
        allowed = allowed_range(key, of_methods)
        if key in FILLED and not value:
            raise UserError(f"{key} is empty: give it a value or leave it out.")
        for number in numbers_in(value):
            if not math.isfinite(number):
                raise UserError(f"{key} is {number}: use a finite number.")
        if allowed is not None and value != default:
            allowed.check(key, value)
        if key in UNUSED and value and value != default:
            raise UserError(f"{key} is {value!r}, {UNUSED[key]}.")
        if any("\0" in item for item in items_in(value) if isinstance(item, str)):
            raise UserError(f"{key} is {value!r}, which has a NUL character: remove it.")
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
    if isinstance(default, (list, tuple)) and items_in(default):
        if all(is_number(item) for item in items_in(default)):
            wrong = [item for item in items_in(value) if not is_number(item)]
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
