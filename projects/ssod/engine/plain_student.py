"""Offline training of any Detectron2 meta-architecture: supervised, or on stored pseudo-labels.

The student is called as an ordinary Detectron2 model, so its features, proposals and loss terms are
not visible. A method works here if it only chooses labels (`refine`) or changes images in the
loader.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from ssod.detectors.loss_only import LossOnlyModel
from ssod.engine.teacher_student import TeacherStudent, unsupported_part
from ssod.errors import UserError
from ssod.methods import Method, learns_from_unlabeled

# The phases that need the student's features or proposals. A method with one of them cannot work
# here.
_PHASES = ("attach", "views", "weigh", "losses", "update")


def build_core(cfg: CfgNode, student: nn.Module, methods: nn.ModuleDict) -> TeacherStudent:
    """The step for this model: `PlainTeacherStudent` where training is offline and `TeacherStudent`
    cannot drive it.
    """
    offline = bool(cfg.SSOD.PSEUDO_LABELS) or not learns_from_unlabeled(cfg)
    if offline and unsupported_part(student) is not None:
        if cfg.MODEL.KEYPOINT_ON:
            raise UserError(
                "MODEL.KEYPOINT_ON is set, but only boxes and masks are trained: set it to False."
            )
        if cfg.SSOD.RPN_SCORE_THRESHOLD > 0:
            raise UserError(
                "SSOD.RPN_SCORE_THRESHOLD is set, but this model's RPN cannot have labels of its own: set it to 0."
            )
        return PlainTeacherStudent.from_config(cfg, student, methods)
    return TeacherStudent.from_config(cfg, student, methods)  # type: ignore[arg-type]


class PlainTeacherStudent(TeacherStudent):
    """The same step with `LossOnlyModel` as the detector: L = L(labelled) + lambda_u * L(stored
    labels), each the model's own losses; the teacher is the average.

    The arguments are those of `TeacherStudent`, without the detector.

    Raises:
        UserError: a method looks into the student, or asks for losses that the model does not have.
    """

    def __init__(
        self, *, student: Any, methods: nn.ModuleDict, cls_loss: str, **arguments: Any
    ) -> None:
        for name, method in methods.items():
            used = [p for p in _PHASES if getattr(type(method), p) is not getattr(Method, p)]
            if used:
                raise UserError(
                    f"{name} works on GeneralizedRCNN with StandardROIHeads only: remove it from SSOD.METHODS "
                    "for this meta-architecture."
                )
        # The model's own losses regress every box and take no weights of single boxes.
        regressing = any(method.regresses_pseudo_boxes for method in methods.values())
        if len(methods) and not regressing:
            raise UserError(
                "This meta-architecture regresses every pseudo-box: add PseudoBoxRegression to SSOD.METHODS."
            )
        if cls_loss != "cross_entropy":
            raise UserError(
                f"SSOD.ROI_CLS_LOSS {cls_loss} needs GeneralizedRCNN with StandardROIHeads: use 'cross_entropy', "
                "which leaves the model's own losses."
            )
        super().__init__(
            student=student,
            methods=methods,
            cls_loss=cls_loss,
            detector=LossOnlyModel(student),
            **arguments,
        )
