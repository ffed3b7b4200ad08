"""Offline training of any Detectron2 meta-architecture: supervised, or on stored pseudo-labels.

The student is called as an ordinary Detectron2 model, so nothing is known of its features, proposals or loss terms.
Methods take part as far as they choose labels (`refine`) or change images in the loader.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ssod.detectors.rcnn.outputs import TeacherOutputs
from ssod.engine.teacher_student import TeacherStudent, unsupported_part
from ssod.errors import UserError
from ssod.methods import Method, learns_from_unlabeled
from ssod.structures import Sample, SSODBatch
from ssod.utils.comm import all_reduce_mean

# The phases that look into the student; a method that has one of them cannot work here.
_PHASES = ("attach", "views", "weigh", "losses", "update")


def build_core(cfg: CfgNode, student: nn.Module, methods: nn.ModuleDict) -> TeacherStudent:
    """The step for this model: `PlainTeacherStudent` where training is offline and `TeacherStudent` cannot drive it."""
    offline = bool(cfg.SSOD.PSEUDO_LABELS) or not learns_from_unlabeled(cfg)
    if offline and unsupported_part(student) is not None:
        for key in ("MASK_ON", "KEYPOINT_ON"):
            if cfg.MODEL[key]:
                raise UserError(f"MODEL.{key} is set, but only boxes are trained: set it to False.")
        if cfg.SSOD.RPN_SCORE_THRESHOLD > 0:
            raise UserError(
                "SSOD.RPN_SCORE_THRESHOLD is set, but this model's RPN cannot have labels of its own: set it to 0."
            )
        return PlainTeacherStudent.from_config(cfg, student, methods)
    return TeacherStudent.from_config(cfg, student, methods)  # type: ignore[arg-type]


class LossNormalizer:
    """RetinaNet and FCOS divide their losses by a running number of positives that they keep outside of `state_dict`.

    Equal on all ranks, and in the checkpoint, so that a resumed run goes on exactly where it stopped.
    """

    NAME = "loss_normalizer"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def synchronize(self) -> None:
        """Replaces it by its mean over ranks; called on every rank after every forward."""
        value = torch.tensor(float(getattr(self.model, self.NAME, 0.0)), dtype=torch.float64)
        all_reduce_mean([value])
        if hasattr(self.model, self.NAME):
            setattr(self.model, self.NAME, float(value))

    def state_dict(self) -> Dict[str, float]:
        found = hasattr(self.model, self.NAME)
        return {self.NAME: float(getattr(self.model, self.NAME))} if found else {}

    def load_state_dict(self, state: Dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self.model, name, value)


class PlainTeacherStudent(TeacherStudent):
    """L = L(labelled) + lambda_u * L(stored labels), each the model's own losses; the teacher is the average.

    The arguments are those of `TeacherStudent`.

    Raises:
        UserError: a method looks into the student, or asks for losses that the model does not have.
    """

    def __init__(self, *, methods: nn.ModuleDict, cls_loss: str, **arguments: Any) -> None:
        for name, method in methods.items():
            used = [p for p in _PHASES if getattr(type(method), p) is not getattr(Method, p)]
            if used:
                raise UserError(
                    f"{name} works on GeneralizedRCNN with StandardROIHeads only: remove it from SSOD.METHODS "
                    "for this meta-architecture."
                )
        # Weights of single boxes have no way into the model's losses, which regress every box.
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
        super().__init__(methods=methods, cls_loss=cls_loss, **arguments)
        self.normalizer = LossNormalizer(self.student)

    def check_student(self, student: nn.Module) -> None:
        """Any model is fine."""

    def checkpointables(self) -> Dict[str, Any]:
        return {"normalizer": self.normalizer}

    def forward(self, batch: Any) -> Any:
        if not self.training:
            return self.teacher(batch)
        assert isinstance(batch, SSODBatch)
        context = self.context(batch)
        pseudo = self.pseudo_labels(context) if batch.unlabeled else None
        views = self.student_views(batch, pseudo, context)
        losses: Dict[str, Tensor] = {}
        if views.labeled.images:
            losses.update(self._model_losses(views.labeled.images, views.labeled.targets))
        if views.unlabeled is not None:
            own = self._model_losses(views.unlabeled.images, views.unlabeled.targets)
            for name, loss in own.items():
                losses[f"{name}_unlabeled"] = self.unsup_loss_weight * loss
        self.normalizer.synchronize()
        self.last_batch, self.last_pseudo = batch, pseudo
        self.last_numbers = self._numbers(None, pseudo, context)
        return losses

    def label(self, samples: List[Sample]) -> TeacherOutputs:
        raise UserError(
            f"{type(self.student).__name__} does not label online: use python -m ssod.tools.pseudo_label."
        )

    def _model_losses(
        self, images: Sequence[Tensor], targets: Sequence[Instances]
    ) -> Dict[str, Tensor]:
        inputs: List[Dict[str, Any]] = []
        for image, target in zip(images, targets):
            plain = Instances(target.image_size)
            plain.gt_boxes = Boxes(target.gt_boxes.tensor)
            plain.gt_classes = target.gt_classes
            height, width = target.image_size
            inputs.append({"image": image, "instances": plain, "height": height, "width": width})
        return self.student(inputs)
