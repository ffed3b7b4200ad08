"""The training step: the teacher labels, the student learns, and the methods take part.

`TeacherStudent` is one `nn.Module` whose forward maps a batch to a dict of losses. So any
Detectron2 trainer can run it, and DDP gets one forward per step.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ssod.detectors.base import Detector
from ssod.detectors.outputs import Outputs, StreamOutputs, TeacherOutputs
from ssod.detectors.registry import build_adapter
from ssod.engine.activity import note_changes, step_numbers
from ssod.methods import Method, StepContext
from ssod.methods.fitting import check_fit
from ssod.structures import PseudoLabels, Sample, SSODBatch, View, Views, make_targets


class TeacherStudent(nn.Module):
    """The student, which learns, the teacher, which is its average, and the methods.

    Args:
        student: the model. Methods attach their heads to it here.
        detector: runs the student and the teacher.
        methods: in the order in which their phases run.
        unsup_loss_weight: lambda_u. sup_loss_weight: the weight of the labelled images' loss.
        labeled_weak_view: whether the student gets the weak view of labelled images besides the
            strong one.
        pseudo_score_floor: lowest score of a pseudo-label.

    Raises:
        UserError: a method needs what the detector does not have.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        detector: Detector,
        methods: nn.ModuleDict,
        unsup_loss_weight: float,
        labeled_weak_view: bool,
        pseudo_score_floor: float,
        sup_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_fit(detector, methods)
        self.detector = detector
        self.student: Any = student
        self.methods = methods
        for method in self.method_list:
            method.attach(student)
        self.teacher: Any = copy.deepcopy(student).requires_grad_(False)
        self.pseudo_score_floor = pseudo_score_floor
        self.unsup_loss_weight = unsup_loss_weight
        self.sup_loss_weight = sup_loss_weight
        self.labeled_weak_view = labeled_weak_view
        self.step = 0
        # The last step's batch and pseudo-labels, for hooks that draw. They are not part of the
        # state.
        self.last_batch = SSODBatch([], [])
        self.last_pseudo: Optional[PseudoLabels] = None
        # Numbers of the last micro-batch that the training loop logs together with its losses.
        self.last_numbers: Dict[str, Union[float, Tensor]] = {}
        self.train()

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: nn.Module, methods: nn.ModuleDict
    ) -> "TeacherStudent":
        """Builds it around a student, with the adapter of its family."""
        return cls(
            student=student,
            detector=build_adapter(cfg, student),
            methods=methods,
            unsup_loss_weight=cfg.SSOD.UNSUP_LOSS_WEIGHT,
            sup_loss_weight=cfg.SSOD.SUP_LOSS_WEIGHT,
            labeled_weak_view=cfg.SSOD.LABELED_WEAK_VIEW,
            pseudo_score_floor=cfg.SSOD.PSEUDO_SCORE_FLOOR,
        )

    def checkpointables(self) -> Dict[str, Any]:
        """The objects that a checkpoint saves besides student, teacher and methods, by key."""
        return self.detector.checkpointables()

    @property
    def device(self) -> torch.device:
        """The student's device."""
        return next(self.student.parameters()).device

    @property
    def method_list(self) -> List[Method]:
        """The methods in order."""
        return list(self.methods.values())  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "TeacherStudent":
        """Sets the student's mode. The teacher stays in eval mode."""
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
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
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
        return step_numbers(methods, outputs, pseudo, context)

    def context(self, batch: SSODBatch) -> StepContext:
        """The context that methods' phases receive for `batch`, in training or outside it."""
        methods = {method.name: method for method in self.method_list}
        return StepContext(self.step, batch, self.student, self.teacher, methods=methods)

    def pseudo_labels(self, context: StepContext) -> PseudoLabels:
        """Phases 2 and 3. The teacher does not run if the samples have stored labels."""
        samples = context.batch.unlabeled
        if any(sample.stored is None for sample in samples):
            context.teacher_outputs = self.label(samples)
        return self.refine(context)

    @torch.no_grad()
    def label(self, samples: List[Sample]) -> TeacherOutputs:
        """Phase 2: the teacher's detections on the weak views."""
        images = [self._to_device(sample.weak) for sample in samples]
        return self.detector.detect(self.teacher, images, self.pseudo_score_floor)

    @torch.no_grad()
    def refine(self, context: StepContext) -> PseudoLabels:
        """Phase 3: methods annotate the teacher's labels, or the stored ones."""
        if context.teacher_outputs is not None:
            found = context.teacher_outputs.detections
        else:
            stored = [sample.stored for sample in context.batch.unlabeled]
            found = [row.to(self.device) for row in stored if row is not None]
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
        """Phase 5: one batched forward over both streams, and one more for each method's extra
        images.
        """
        return self.detector.run(views)

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        """Phase 6: L = w_s * L_sup + lambda_u * L_unsup + each method's losses. w_s is 1 unless
        SSOD.SUP_LOSS_WEIGHT is set.

        Heads and methods that are idle in this step get a zero gradient, because DDP needs one.
        """
        losses: Dict[str, Tensor] = {}
        # A stream has no images if `SSOD.ALTERNATE_STREAMS` gives this micro-batch to the other
        # one.
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
        extra: List[Tensor] = list(self.methods.parameters())
        extra += list(getattr(self.student, "ssod_heads", nn.ModuleDict()).parameters())
        extra += self.detector.idle()
        idle = [0.0 * parameter.sum() for parameter in extra if parameter.requires_grad]
        if idle:
            first = next(iter(losses))
            losses[first] = losses[first] + torch.stack(idle).sum()
        return losses

    def _detection_losses(self, outputs: StreamOutputs) -> Dict[str, Tensor]:
        return self.detector.losses(outputs)

    def _targets(self, instances: Optional[Instances]) -> Instances:
        assert instances is not None
        boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
        device = self.device
        masks = instances.gt_masks.to(device) if instances.has("gt_masks") else None
        size = instances.image_size
        return make_targets(size, boxes.to(device), classes.to(device), masks=masks)

    def _to_device(self, image: Tensor) -> Tensor:
        return image.to(self.device, non_blocking=True)
