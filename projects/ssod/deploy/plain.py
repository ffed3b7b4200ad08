"""A training result as a plain Detectron2 model: config, weights and class names.

It runs without this project, unless its backbone is one of this project's. A user's own parts must
be imported first.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from torch import Tensor, nn

from ssod import compat
from ssod.backbones.loading import own_names
from ssod.config import add_ssod_config
from ssod.deploy.classes import class_names
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.loading import build_detector, detector_state
from ssod.errors import UserError
from ssod.utils.atomic import write_atomically

_PARTS = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
}
_BACKBONES = "ssod.backbones"


def export(
    cfg: CfgNode, weights: str, output: str, model: Optional[str] = None
) -> Tuple[str, str, str]:
    """Writes `config.yaml`, `model.pth` and `classes.json`.

    Args:
        cfg: the training config. weights: a weights file or a full training checkpoint.
        model: "teacher" (default) or "student" of a full checkpoint; must be None for a weights
            file.

    Returns:
        The three paths, absolute.

    Raises:
        UserError: the file cannot be read, does not fit the config, or has no such model.
    """
    folder = os.path.abspath(output)
    config_path, weights_path, classes_path = (
        os.path.join(folder, name) for name in ("config.yaml", "model.pth", "classes.json")
    )
    plain = plain_config(cfg)
    state = detector_state(SSODCheckpointer(nn.Identity()).load_file(weights), weights, model)
    state = _fitting(plain, state, weights)
    # An absolute path works from every folder; Detectron2 resolves relative ones from the current
    # folder.
    plain.MODEL.WEIGHTS = weights_path
    write_atomically(weights_path, lambda file: torch.save({"model": state}, file))
    text = _header(plain, cfg) + plain.dump()
    write_atomically(config_path, lambda file: file.write(text.encode()))
    names = json.dumps(class_names(cfg), indent=1)
    write_atomically(classes_path, lambda file: file.write(names.encode()))
    return config_path, weights_path, classes_path


def plain_config(cfg: CfgNode) -> CfgNode:
    """The config reduced to the keys of `get_cfg()` and those of parts outside Detectron2.

    These are the keys that a user's parts added, this project's keys under `MODEL` if its parts are
    used, and `SSOD.IMPORTS`. No key is left that would download weights.
    """
    plain = get_cfg()
    _copy_known(cfg, plain)
    plain.OUTPUT_DIR = get_cfg().OUTPUT_DIR
    known = get_cfg()
    add_ssod_config(known)
    _copy_unknown(cfg, plain, known)
    if any(module.split(".")[0] == "ssod" for module in modules_to_import(cfg)):
        for key in [key for key in known.MODEL if key not in plain.MODEL]:
            plain.MODEL[key] = cfg.MODEL[key].clone()
    if "TIMM" in plain.MODEL:
        plain.MODEL.TIMM.PRETRAINED, plain.MODEL.TIMM.WEIGHTS_PACKAGE = False, ""
    if cfg.SSOD.IMPORTS:
        plain.SSOD = CfgNode({"IMPORTS": list(cfg.SSOD.IMPORTS)})
    return plain


def modules_to_import(cfg: CfgNode) -> List[str]:
    """The modules to import before the model can be built, for parts outside Detectron2."""
    found = list(cfg.SSOD.IMPORTS)
    for key, registry in _PARTS.items():
        name: Any = cfg.MODEL
        for part in key.split("."):
            name = name[part]
        if name in registry:
            module = registry.get(name).__module__
            if module.split(".")[0] not in ("detectron2", "__main__"):
                found.append(_BACKBONES if module.startswith(f"{_BACKBONES}.") else module)
    return list(dict.fromkeys(found))


def packages_to_install(cfg: CfgNode) -> List[str]:
    """Packages beside Detectron2 that the model needs, as pip takes them."""
    modules = [module for module in modules_to_import(cfg) if module.split(".")[0] == "ssod"]
    found = ["ssod"] if modules else []
    if any(module.startswith("ssod.detectors.detr") for module in modules):
        found.append("transformers")
    if "timm" in cfg.MODEL.BACKBONE.NAME:
        found.append("timm")
    return found


def _copy_known(source: CfgNode, target: CfgNode) -> None:
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _copy_known(source[key], value)
        else:
            target[key] = source[key]


def _copy_unknown(source: CfgNode, target: CfgNode, known: CfgNode) -> None:
    """Copies the keys that `known` lacks, which are a user's own."""
    for key, value in source.items():
        if key not in known:
            target[key] = value.clone() if isinstance(value, CfgNode) else value
        elif isinstance(value, CfgNode) and key in target:
            _copy_unknown(value, target[key], known[key])


def has_own_keys(plain: CfgNode) -> bool:
    """Whether Detectron2's `get_cfg()` lacks some of the keys."""
    return plain.dump() != _known_part(plain).dump()


def _known_part(plain: CfgNode) -> CfgNode:
    known = get_cfg()
    _copy_known(plain, known)
    return known


def snippet(cfg: CfgNode, config_path: str, weights_path: str) -> List[str]:
    """The lines of Python that run the model."""
    imports = [f"import {module}" for module in modules_to_import(cfg)]
    if compat.applied():  # first: it makes Detectron2 0.6 importable on today's libraries
        imports.insert(
            0, "import ssod  # needed in this environment, not beside a newer Detectron2"
        )
    allow = ["cfg.set_new_allowed(True)"] if has_own_keys(plain_config(cfg)) else []
    return [
        *imports,
        "import cv2",
        "from detectron2.config import get_cfg",
        "from detectron2.engine import DefaultPredictor",
        "",
        "cfg = get_cfg()",
        *allow,
        f"cfg.merge_from_file({config_path!r})",
        f"cfg.MODEL.WEIGHTS = {weights_path!r}  # needed only if you move the folder: its new place",
        "print(DefaultPredictor(cfg)(cv2.imread('image.jpg')))",
    ]


def _header(plain: CfgNode, cfg: CfgNode) -> str:
    """Comments that tell the config's reader what to do before it is merged."""
    modules = modules_to_import(cfg)
    packages = packages_to_install(cfg)
    steps = [f"pip install {' '.join(packages)}"] if packages else []
    steps += [f"import {', '.join(modules)}"] if modules else []
    if has_own_keys(plain):
        steps.append("cfg.set_new_allowed(True)")
    return f"# Before this file is merged: {'; '.join(steps)}\n" if steps else ""


def _fitting(plain: CfgNode, state: Dict[str, Tensor], path: str) -> Dict[str, Tensor]:
    """The weights under the model's names."""
    building = plain.clone()
    building.MODEL.DEVICE = "cpu"
    try:
        detector = build_detector(building)
        state = own_names(detector, state)
        detector.load_state_dict(state, strict=True)
    except AttributeError as error:  # a user's part reads a key that is not the model's
        raise UserError(
            f"The model cannot be built from MODEL and the keys that SSOD.IMPORTS adds ({error}): let its parts read no others."
        ) from None
    except RuntimeError as error:
        detail = (
            " ".join(str(error).splitlines()[1].split())[:200] if "\n" in str(error) else str(error)
        )
        raise UserError(
            f"{path} does not fit the config ({detail}): give the config it was trained with."
        ) from None
    return state
