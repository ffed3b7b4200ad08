"""The training step: teacher labels, student learns, methods join in.

`TeacherStudent` is one `nn.Module` whose forward maps a batch to a dict of losses, so any
Detectron2 trainer can drive it and DDP sees one forward a step.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ssod.detectors.driver import DetectorDriver
from ssod.detectors.rcnn.driver import RCNNDriver
from ssod.detectors.rcnn.outputs import Outputs, TeacherOutputs, ViewOutputs
from ssod.engine.activity import note_changes, step_numbers
from ssod.errors import UserError
from ssod.methods import Method, StepContext
from ssod.structures import PseudoLabels, Sample, SSODBatch, View, Views, make_targets


def unsupported_part(model: Any) -> Optional[str]:
    """The part of the model that the step does not support; None if all parts are supported."""
    heads = getattr(model, "roi_heads", None)
    rpn: Any = getattr(model, "proposal_generator", None)
    problem = None
    own_forward = any(
        getattr(type(model), name, None) is not getattr(GeneralizedRCNN, name)
        for name in ("forward", "inference")
    )
    if own_forward or not isinstance(model, GeneralizedRCNN):
        problem = f"MODEL.META_ARCHITECTURE {type(model).__name__}"
    elif not isinstance(heads, StandardROIHeads) or isinstance(heads, CascadeROIHeads):
        problem = f"MODEL.ROI_HEADS.NAME {type(heads).__name__}"
    elif type(rpn).forward is not RPN.forward or type(rpn).losses is not RPN.losses:
        problem = f"MODEL.PROPOSAL_GENERATOR.NAME {type(rpn).__name__}"
    elif type(heads.box_predictor).losses is not FastRCNNOutputLayers.losses:
        problem = f"The box predictor {type(heads.box_predictor).__name__}, whose losses the step would not call,"
    elif heads.mask_on or heads.keypoint_on:
        problem = f"MODEL.{'MASK_ON' if heads.mask_on else 'KEYPOINT_ON'}"
    elif getattr(heads.box_predictor, "use_sigmoid_ce", False):
        problem = "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"
    elif getattr(heads, "train_on_pred_boxes", False):
        problem = "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES"
    return problem


def check_supported(model: Any) -> None:
    """Raises `UserError` unless the model is a box-only Faster R-CNN of Detectron2's standard
    parts.
    """
    problem = unsupported_part(model)
    if problem:
        raise UserError(
            f"{problem} is not supported for online teacher-student training: use GeneralizedRCNN with "
            "StandardROIHeads, boxes only."
        )


class TeacherStudent(nn.Module):
    """A student that learns, the teacher that is its average, and the methods.

    Args:
        student: a `GeneralizedRCNN`; methods attach their heads to it here.
        methods: in the order in which their phases run.
        unsup_loss_weight: lambda_u. sup_loss_weight: the same of labelled images.
        labeled_weak_view: labelled images are seen weak and strong.
        pseudo_score_floor: lowest score of a pseudo-label. cls_loss, focal_gamma: of the RoI
            classifier.
        detector: runs the student and the teacher; None: `RCNNDriver`, which refuses all but
            Faster R-CNNs.
    """

    def __init__(
        self,
        *,
        student: GeneralizedRCNN,
        methods: nn.ModuleDict,
        unsup_loss_weight: float,
        labeled_weak_view: bool,
        pseudo_score_floor: float,
        cls_loss: str,
        focal_gamma: float,
        sup_loss_weight: float = 1.0,
        detector: Optional[DetectorDriver] = None,
    ) -> None:
        super().__init__()
        if detector is None:
            check_supported(student)
        if cls_loss not in ("cross_entropy", "focal"):
            raise UserError(f"SSOD.ROI_CLS_LOSS is {cls_loss!r}: use 'cross_entropy' or 'focal'.")
        self.detector: DetectorDriver = detector or RCNNDriver(
            student, score_floor=pseudo_score_floor, cls_loss=cls_loss, focal_gamma=focal_gamma
        )
        self.student: GeneralizedRCNN = student
        self.methods = methods
        for method in self.method_list:
            method.attach(student)
        self.teacher: GeneralizedRCNN = copy.deepcopy(student).requires_grad_(False)
        self.unsup_loss_weight = unsup_loss_weight
        self.sup_loss_weight = sup_loss_weight
        self.labeled_weak_view = labeled_weak_view
        self.step = 0
        # The last step's batch and pseudo-labels, for hooks that draw; not part of the state.
        self.last_batch = SSODBatch([], [])
        self.last_pseudo: Optional[PseudoLabels] = None
        # Numbers of the last micro-batch that the training loop logs beside its losses.
        self.last_numbers: Dict[str, Union[float, Tensor]] = {}
        self.train()

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: GeneralizedRCNN, methods: nn.ModuleDict
    ) -> "TeacherStudent":
        """Builds it around a student."""
        return cls(
            student=student,
            methods=methods,
            unsup_loss_weight=cfg.SSOD.UNSUP_LOSS_WEIGHT,
            sup_loss_weight=cfg.SSOD.SUP_LOSS_WEIGHT,
            labeled_weak_view=cfg.SSOD.LABELED_WEAK_VIEW,
            pseudo_score_floor=cfg.SSOD.PSEUDO_SCORE_FLOOR,
            cls_loss=cfg.SSOD.ROI_CLS_LOSS,
            focal_gamma=cfg.SSOD.FOCAL_GAMMA,
        )

    def checkpointables(self) -> Dict[str, Any]:
        """The objects that a checkpoint saves besides student, teacher and methods, by key."""
        return self.detector.checkpointables()

    @property
    def method_list(self) -> List[Method]:
        """The methods in order."""
        return list(self.methods.values())  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "TeacherStudent":
        """The teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Union[SSODBatch, List[Dict[str, Any]]]) -> Any:
        """Training: a dict of losses from an `SSODBatch`.

        Eval: the teacher's detections for Detectron2's inputs.
        """
        if not self.training:
            return self.teacher(batch)
        assert isinstance(batch, SSODBatch)
        context = self.context(batch)
        pseudo = None
        if batch.unlabeled:
            pseudo = self.pseudo_labels(context)
        views = self.student_views(batch, pseudo, context)
        outputs = self.run_student(views)
        for method in self.method_list:
            weighted = method.weigh(outputs, pseudo, context)
            note_changes(context, method, outputs, weighted)
            outputs = weighted
        losses = self.losses(outputs, pseudo, context)
        with torch.no_grad(), torch.autocast(self.student.device.type, enabled=False):
            for method in self.method_list:
                method.update(outputs, pseudo, context)
            self.last_numbers = self._numbers(outputs, pseudo, context)
        # A labelled turn of SSOD.ALTERNATE_STREAMS keeps the pseudo-labels of the last unlabelled
        # turn.
        if pseudo is not None or self.last_pseudo is None:
            self.last_batch, self.last_pseudo = batch, pseudo
        return losses

    def _numbers(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Union[float, Tensor]]:
        methods = {method.name: method for method in self.method_list}
        seen = outputs if isinstance(outputs, Outputs) else None  # None where only losses are known
        return step_numbers(methods, seen, pseudo, context)

    def context(self, batch: SSODBatch) -> StepContext:
        """The context that methods' phases receive for `batch`, in training or outside it."""
        methods = {method.name: method for method in self.method_list}
        return StepContext(self.step, batch, self.student, self.teacher, methods=methods)

    def pseudo_labels(self, context: StepContext) -> PseudoLabels:
        """Phases 2 and 3; the teacher does not run where the samples bring stored labels."""
        samples = context.batch.unlabeled
        if any(sample.stored is None for sample in samples):
            context.teacher_outputs = self.label(samples)
        return self.refine(context)

    @torch.no_grad()
    def label(self, samples: List[Sample]) -> TeacherOutputs:
        """Phase 2: the teacher's detections on the weak views."""
        images = [self._to_device(sample.weak) for sample in samples]
        return self.detector.label(self.teacher, images)

    @torch.no_grad()
    def refine(self, context: StepContext) -> PseudoLabels:
        """Phase 3: methods annotate the teacher's labels, or the stored ones."""
        if context.teacher_outputs is not None:
            found = context.teacher_outputs.detections
        else:
            stored = [sample.stored for sample in context.batch.unlabeled]
            found = [row.to(self.student.device) for row in stored if row is not None]
        pseudo = PseudoLabels.from_detections(found)
        for method in self.method_list:
            rows = [len(row) for row in pseudo.instances]
            refined = method.refine(pseudo, context)
            if not method.adds_labels and rows != [len(row) for row in refined.instances]:
                raise RuntimeError(
                    f"{method.name}.refine dropped or added rows: use columns instead."
                )
            note_changes(context, method, pseudo, refined)
            pseudo = refined
        selected = torch.cat([row.selected for row in pseudo.instances])
        images = len(pseudo.instances)
        storage = get_event_storage()
        storage.put_scalar("pseudo/boxes_per_image", float(selected.sum()) / images)
        storage.put_scalar("pseudo/candidates_per_image", len(selected) / images)
        scores = torch.cat([row.scores for row in pseudo.instances])
        best = float(scores.max()) if len(scores) else 0.0
        storage.put_scalar("pseudo/best_score", best, smoothing_hint=False)
        return pseudo

    def student_views(
        self, batch: SSODBatch, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Views:
        """Phase 4: images and targets of the student."""
        targets = []
        for sample in batch.labeled:
            targets.append(self._targets(sample.strong_instances or sample.instances))
        images = [self._to_device(sample.strong) for sample in batch.labeled]
        if self.labeled_weak_view:
            images = images + [self._to_device(sample.weak) for sample in batch.labeled]
            targets = targets + [self._targets(sample.instances) for sample in batch.labeled]
        views = Views(View(images, targets))
        if pseudo is not None:
            strong = [self._to_device(sample.strong) for sample in batch.unlabeled]
            views.unlabeled = View(strong, [], pseudo)
        for method in self.method_list:
            views = method.views(views, pseudo, context)
        if views.unlabeled is not None and views.unlabeled.pseudo is not None:
            labels = views.unlabeled.pseudo
            targets = labels.to_targets()
            apart = any(row.has("rpn_selected") for row in labels.instances)
            rpn_targets = labels.to_targets(rpn=True) if apart else None
            unlabeled = replace(views.unlabeled, targets=targets, rpn_targets=rpn_targets)
            views = replace(views, unlabeled=unlabeled)
        return views

    def run_student(self, views: Views) -> Outputs:
        """Phase 5: one batched forward over both streams, one more for each method's extra
        images.
        """
        return self.detector.run(views)

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        """Phase 6: L = w_s * L_sup + lambda_u * L_unsup + each method's losses; w_s is 1 unless
        SSOD.SUP_LOSS_WEIGHT is set.

        Heads and methods that idle in this step still get a zero gradient, which DDP insists on.
        """
        losses: Dict[str, Tensor] = {}
        # Without images where `SSOD.ALTERNATE_STREAMS` gives this micro-batch to the other stream.
        if outputs.labeled.view.images:
            for name, loss in self._detection_losses(outputs.labeled).items():
                losses[name] = self.sup_loss_weight * loss
        if outputs.unlabeled is not None:
            for name, loss in self._detection_losses(outputs.unlabeled).items():
                losses[f"{name}_unlabeled"] = self.unsup_loss_weight * loss
        for method in self.method_list:
            own = method.losses(outputs, pseudo, context)
            note_changes(context, method, None, own)
            for name in own:
                if name in losses:
                    raise RuntimeError(
                        f"{method.name} returns the loss {name!r} that exists: rename it."
                    )
            losses.update(own)
        extra = list(self.methods.parameters())
        extra += list(getattr(self.student, "ssod_heads", nn.ModuleDict()).parameters())
        idle = [0.0 * parameter.sum() for parameter in extra if parameter.requires_grad]
        if idle:
            first = next(iter(losses))
            losses[first] = losses[first] + torch.stack(idle).sum()
        return losses

    def _detection_losses(self, outputs: ViewOutputs) -> Dict[str, Tensor]:
        return self.detector.losses(outputs)

    def _targets(self, instances: Optional[Instances]) -> Instances:
        assert instances is not None
        boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
        device = self.student.device
        masks = instances.gt_masks.to(device) if instances.has("gt_masks") else None
        size = instances.image_size
        return make_targets(size, boxes.to(device), classes.to(device), masks=masks)

    def _to_device(self, image: Tensor) -> Tensor:
        return image.to(self.student.device, non_blocking=True)
