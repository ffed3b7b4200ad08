"""Loads detectors and teachers from the files that training writes, for evaluation and tools."""

from __future__ import annotations

import sys
from typing import Any, Dict, Optional

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ssod.backbones.loading import backbone_prefixes, own_names
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.engine.build_errors import explain_build_error
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import Method, TrainingData, build_methods, learns_from_unlabeled

# Least share of the backbone's tensors that must match. About 30 % match by chance between
# ResNet-18 and ResNet-50.
_LEAST_SHARE = 0.5


def detector_state(data: Dict[str, Any], path: str, role: Optional[str]) -> Dict[str, Tensor]:
    """One detector's weights, without methods' heads, from the result of
    `SSODCheckpointer.load_file`.

    Args:
        role: "teacher" or "student" of a full checkpoint. None means the teacher. Use None for a
            weights file.

    Raises:
        UserError: `role` is given for a weights file, or the file holds no trained detector.
    """
    full = "teacher" in data
    if not full and role is not None:
        raise UserError(f"{path} holds the weights of one model only: leave --model out.")
    if data.get("matching_heuristics"):
        raise UserError(
            f"{path} is a published backbone, not a trained detector: name a file that training wrote."
        )
    state = data["teacher" if full and role != "student" else "model"]
    return {key: value for key, value in state.items() if not key.startswith("ssod_heads.")}


def build_detector(cfg: CfgNode) -> nn.Module:
    """`detectron2.modeling.build_model`. Raises `UserError` for a name or number under MODEL that
    Detectron2 does not know.
    """
    try:
        return build_model(cfg)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(explain_build_error(cfg, error)) from None


def without_pretraining(cfg: CfgNode) -> CfgNode:
    """A copy of the config that downloads no backbone weights, for a model whose weights come from
    a file.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.WEIGHTS_PACKAGE = False, ""
    return cfg


def load_detector(cfg: CfgNode, weights: str, role: Optional[str]) -> nn.Module:
    """A model in eval mode with the weights of a file. `role` is that of `detector_state`."""
    model = build_detector(without_pretraining(cfg))
    checkpointer = SSODCheckpointer(model)
    data = checkpointer.load_file(weights)
    if "__author__" in data:  # published detectors, whose names Detectron2's heuristics match
        checkpointer.load(weights, checkpointables=[])
        check_weights_match(cfg, weights, checkpointer)
    else:
        fill_detector(model, own_names(model, detector_state(data, weights, role)), weights)
    return model.eval()


def check_weights_match(cfg: CfgNode, path: str, checkpointer: SSODCheckpointer) -> None:
    """Raises `UserError` if the file that was just loaded had less than `_LEAST_SHARE` of the
    backbone's tensors.

    With `SSOD.ALLOW_PARTIAL_WEIGHTS` any share passes.
    """
    match = checkpointer.name_match
    if match is None or cfg.SSOD.ALLOW_PARTIAL_WEIGHTS:
        return
    backbone = match.prefix or next(iter(backbone_prefixes(checkpointer.model)), "backbone.")
    names = [
        name
        for name in checkpointer.model.state_dict()
        if name.startswith(backbone) and not name.endswith("num_batches_tracked")
    ]
    loaded = sum(name in match.pairs for name in names)
    if not names or loaded >= _LEAST_SHARE * len(names):
        return
    if len(match.wrong_shape) > len(match.pairs):
        reason = (
            f"{len(match.wrong_shape)} tensors have another shape there: it is another architecture"
        )
    elif match.left:
        reason = (
            f"the file's names are such as {match.left[0]} and the model's such as {names[0]}: another prefix, or another "
            "architecture"
        )
    else:
        reason = "the file holds hardly any tensors"
    raise UserError(
        f"MODEL.WEIGHTS {path}: only {loaded} of the backbone's {len(names)} tensors ({100 * loaded // len(names)} %) are in it; "
        f"{reason}. Name weights of this backbone, leave MODEL.WEIGHTS empty to train from scratch, or set "
        "SSOD.ALLOW_PARTIAL_WEIGHTS True to go on."
    )


def training_data(cfg: CfgNode) -> TrainingData:
    """The `TrainingData` that methods receive, from the config's registered datasets."""
    labeled = load_labeled(cfg)
    learns = learns_from_unlabeled(cfg)
    # A supervised run reads the sets that it names too: a wrong name or path is refused now.
    unlabeled = load_unlabeled(cfg) if learns or cfg.DATASETS.UNLABELED else []
    return TrainingData(
        labeled=labeled,
        unlabeled=unlabeled if learns else [],
        class_names=check_classes(cfg),
    )


def methods_with_data(cfg: CfgNode) -> nn.ModuleDict:
    """The config's methods, set up as in training.

    The datasets must be registered, because methods read them in `setup`.
    """
    methods = build_methods(cfg)
    if len(methods):
        data = training_data(cfg)
        for method in methods.values():
            assert isinstance(method, Method)
            method.setup(data)
    return methods


def load_teacher(cfg: CfgNode, weights: str) -> TeacherStudent:
    """Teacher, student and methods from a full checkpoint, or a teacher from its weights alone.

    The config's datasets must be registered, because methods use them.
    """
    core = TeacherStudent.from_config(
        cfg, build_detector(without_pretraining(cfg)), methods_with_data(cfg)
    )
    core.to(cfg.MODEL.DEVICE)
    state = SSODCheckpointer(nn.Identity()).load_file(weights)
    detector_state(state, weights, None)  # raises if the file is no detector
    fill_detector(core.teacher, state.get("teacher", state["model"]), weights)
    fill_detector(core.student, state["model"], weights)
    if "methods" in state:
        core.methods.load_state_dict(state["methods"], strict=False)
        core.step = state["trainer"]["iteration"] + 1
    elif core.methods.state_dict():
        print(
            f"note: {weights} holds no state of the methods, which start fresh: name a full checkpoint (model_*.pth).",
            file=sys.stderr,
        )
    return core


def fill_detector(model: nn.Module, state: Dict[str, Tensor], path: str) -> None:
    """Puts weights into a model. Raises a `UserError` that names `path` if they do not fit or are
    incomplete.
    """
    try:
        missing = model.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{path} does not fit the config ({detail}): give the config it was trained with."
        ) from None
    heads = [key for key in missing if key.startswith("ssod_heads.")]
    if heads and heads == missing:
        raise UserError(
            f"{path} lacks the heads of {heads[0].split('.')[1]}: name a full checkpoint (model_*.pth), or see the teacher's "
            "candidates without methods: --score 0.5 SSOD.METHODS '()'."
        )
    if missing:
        raise UserError(
            f"{path} does not fit the config: it lacks {missing[0]}; give the config it was trained with."
        )
