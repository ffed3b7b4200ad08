"""Ground-truth-bounded distillation as a method (Eq. 8 of PUDet).

Shapes: R of the teacher's proposals over all images, K foreground classes (class K is background),
C channels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ssod.detectors.features import FeatureMaps, extract_features
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.losses import foreground_deltas
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import BoxPredictions, classify
from ssod.detectors.rcnn.rpn import run_rpn
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)
from ssod.methods.pudet.bounded import (
    bounded_box_distillation,
    bounded_classification_distillation,
    correct_rows,
)
from ssod.methods.pudet.hint import location_mask, masked_squared_error
from ssod.methods.pudet.proposals import LabeledProposals, label_proposals
from ssod.methods.pudet.teacher import FrozenTeacher
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

_KEY = "SSOD.BOUNDED_DISTILLATION"
_NAME = "bounded_distillation"


@dataclass
class _HintSums:
    """Eq. 11 before the division.

    Attributes: error: the double sum. weight: N_I. locations: number of locations in the region.
    cells: number of locations in all maps.
    """

    error: Tensor
    weight: Tensor
    locations: Tensor
    cells: int


@dataclass
class _HeadRows:
    """Both models' predictions on the teacher's proposals of one stream."""

    sampled: LabeledProposals
    student: BoxPredictions
    teacher: BoxPredictions


@METHOD_REGISTRY.register()
class BoundedDistillation(Method):
    """Distils with a hint on FPN maps, and with classification and box regression on the teacher's
    proposals, bounded by the ground truth.

    Teacher and student see the same images, as in the paper. If a method changes the student's view
    (pasted objects), the teacher sees the changed view too. On unlabelled images the selected
    pseudo-labels take the place of the ground truth.

    Args:
        teacher: the frozen teacher. None: the moving average teaches from the end of burn-in on.
        start_step: the first step with distillation.
        hint, cls, box: which of the three losses take part.
        hint_weight: gamma. kd_weight: lambda. temperature: T. imitation_ratio: see
            `imitation_mask`.
        num_proposals: sampled per image.
    """

    config_key = "BOUNDED_DISTILLATION"
    # The paper's Table 3 distils on labelled images alone.
    needs_unlabeled = False
    activity_unit = "sum of the distillation losses"

    def __init__(
        self,
        *,
        teacher: Optional[FrozenTeacher],
        start_step: int,
        hint: bool,
        cls: bool,
        box: bool,
        hint_weight: float,
        kd_weight: float,
        temperature: float,
        imitation_ratio: float,
        num_proposals: int,
    ) -> None:
        super().__init__()
        for key, value, right in (
            ("TEMPERATURE", temperature, temperature > 0),
            ("IMITATION_RATIO", imitation_ratio, 0 <= imitation_ratio < 1),
            ("NUM_PROPOSALS", num_proposals, num_proposals > 0),
        ):
            if not right:
                wanted = "at least 0 and below 1" if key == "IMITATION_RATIO" else "above 0"
                raise UserError(f"{_KEY}.{key} is {value}: it must be {wanted}.")
        if not (hint or cls or box):
            raise UserError(f"{_KEY} has HINT, CLS and BOX switched off: switch one on.")
        self.frozen = teacher
        self.start_step = start_step
        self.hint, self.cls, self.box = hint, cls, box
        self.hint_weight, self.kd_weight = hint_weight, kd_weight
        self.temperature = temperature
        self.imitation_ratio = imitation_ratio
        self.num_proposals = num_proposals
        self.adapters = nn.ModuleDict()

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.BOUNDED_DISTILLATION = CfgNode()
        node.TEACHER = "ema"  # the moving average; or "frozen": the two keys below
        node.TEACHER_CONFIG = ""  # a YAML file; empty: the student's own config
        node.TEACHER_WEIGHTS = ""
        node.HINT = True
        node.CLS = True
        node.BOX = True
        node.HINT_WEIGHT = 1.0  # gamma
        node.KD_WEIGHT = 1.0  # lambda, of CLS and BOX
        node.TEMPERATURE = 2.0
        node.IMITATION_RATIO = 0.5
        node.NUM_PROPOSALS = 512

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.BOUNDED_DISTILLATION
        if node.TEACHER not in ("ema", "frozen"):
            raise UserError(f"{_KEY}.TEACHER is {node.TEACHER!r}: use 'ema' or 'frozen'.")
        frozen = node.TEACHER == "frozen"
        return {
            "teacher": FrozenTeacher.from_config(cfg) if frozen else None,
            # During burn-in the moving average is not yet a useful teacher.
            "start_step": 0 if frozen else cfg.SSOD.BURN_IN_STEPS,
            "hint": node.HINT,
            "cls": node.CLS,
            "box": node.BOX,
            "hint_weight": node.HINT_WEIGHT,
            "kd_weight": node.KD_WEIGHT,
            "temperature": node.TEMPERATURE,
            "imitation_ratio": node.IMITATION_RATIO,
            "num_proposals": node.NUM_PROPOSALS,
        }

    def setup(self, data: TrainingData) -> None:
        if self.frozen is not None:
            self.frozen.load()

    def attach(self, student: GeneralizedRCNN) -> None:
        """Adds the adaptation layers. They belong to the method, so they are trained, but neither
        averaged nor exported.
        """
        if not self.hint:
            return
        ours = student.backbone.output_shape()
        theirs = ours if self.frozen is None else self.frozen.output_shape()
        for level in student.proposal_generator.in_features:
            if level not in theirs or theirs[level].stride != ours[level].stride:
                raise UserError(
                    f"{_KEY}: the teacher's backbone has no map {level} of stride {ours[level].stride}, as the student's has: "
                    "use a teacher with the same levels, or switch HINT off."
                )
            layer = nn.Conv2d(ours[level].channels, theirs[level].channels, 3, padding=1)
            # The layer starts as the identity. A random start would first pull the student towards
            # random maps.
            nn.init.dirac_(layer.weight)
            nn.init.constant_(layer.get_parameter("bias"), 0.0)
            self.adapters[level] = layer

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        zero = torch.zeros((), device=context.student.device)
        enabled = (("hint", self.hint), ("cls", self.cls), ("box", self.box))
        losses = {f"loss_bounded_{name}": zero for name, on in enabled if on}
        streams = [view for view in (outputs.labeled, outputs.unlabeled) if view is not None]
        streams = [view for view in streams if view.view.images]
        if context.step < self.start_step or not streams:
            return losses
        student = context.student
        teacher = context.teacher if self.frozen is None else self.frozen.on(student.device)
        maps = self._teacher_maps(teacher, streams)
        shares: Dict[str, Tensor] = {}
        if self.hint:
            sums = [self._hint(student, view, own) for view, own in zip(streams, maps)]
            error = torch.stack([s.error for s in sums]).sum()
            weight = torch.stack([s.weight for s in sums]).sum()
            losses["loss_bounded_hint"] = self.hint_weight * error / (2 * weight.clamp(min=1))
            shares["imitation_share"] = torch.stack([s.locations for s in sums]).sum() / sum(
                s.cells for s in sums
            )
        if self.cls or self.box:
            rows = [self._head(student, teacher, view, own) for view, own in zip(streams, maps)]
            losses.update(self._head_losses(student, rows, shares))
        self._write(shares)
        return losses

    @torch.no_grad()
    def _teacher_maps(
        self, teacher: GeneralizedRCNN, streams: List[ViewOutputs]
    ) -> List[FeatureMaps]:
        """The teacher's maps of the student's images. The batches are the same, so that the padding
        is the same.
        """
        images: List[Tensor] = []
        batches: Dict[Tuple[int, ...], List[int]] = {}
        for view in streams:
            for group in view.maps.groups:
                # The batches of the student's pass differ in size, so the size identifies the batch
                # of each part.
                size = tuple(next(iter(group.features.values())).shape[2:])
                batches.setdefault(size, []).extend(len(images) + i for i in group.indices)
            images += view.view.images
        if self.frozen is not None and self.frozen.swaps:
            images = [image.flip(0) for image in images]
        maps = extract_features(teacher, images, list(batches.values()))
        ends = list(itertools.accumulate(len(view.view.images) for view in streams))
        return [maps.select(first, last) for first, last in zip([0] + ends, ends)]

    def _hint(self, student: GeneralizedRCNN, view: ViewOutputs, teacher: FeatureMaps) -> _HintSums:
        zero = torch.zeros((), device=student.device)
        sums = _HintSums(zero, zero, zero, 0)
        batches = {tuple(group.indices): group for group in teacher.groups}
        for ours in view.maps.groups:
            theirs = batches[tuple(ours.indices)]
            levels = list(self.adapters)
            anchors = student.proposal_generator.anchor_generator(
                [ours.features[level] for level in levels]
            )
            truths = [view.view.targets[index].gt_boxes.tensor for index in ours.indices]
            for level, boxes in zip(levels, anchors):
                from_student, wanted = ours.features[level], theirs.features[level]
                size = (from_student.shape[2], from_student.shape[3])
                mask = torch.stack(
                    [location_mask(boxes.tensor, t, size, self.imitation_ratio) for t in truths]
                )
                # The two backbones may round the size up differently, at the right and at the
                # bottom.
                height, width = min(size[0], wanted.shape[2]), min(size[1], wanted.shape[3])
                mask = mask[:, :height, :width]
                adapted = self.adapters[level](from_student)[:, :, :height, :width]
                error = masked_squared_error(adapted, wanted[:, :, :height, :width], mask)
                count = mask.sum()
                sums = _HintSums(
                    sums.error + error,
                    sums.weight + wanted.shape[1] * count,
                    sums.locations + count,
                    sums.cells + mask.numel(),
                )
        return sums

    def _head(
        self,
        student: GeneralizedRCNN,
        teacher: GeneralizedRCNN,
        view: ViewOutputs,
        maps: FeatureMaps,
    ) -> _HeadRows:
        with torch.no_grad():
            proposals, _ = run_rpn(teacher.proposal_generator, maps)
            sampled = label_proposals(
                student.roi_heads, proposals, view.view.targets, self.num_proposals
            )
            theirs = classify(teacher.roi_heads, maps, sampled.boxes)
        return _HeadRows(sampled, classify(student.roi_heads, view.maps, sampled.boxes), theirs)

    def _head_losses(
        self, student: GeneralizedRCNN, rows: List[_HeadRows], shares: Dict[str, Tensor]
    ) -> Dict[str, Tensor]:
        labels = torch.cat([row.sampled.labels for row in rows])
        losses = {}
        if self.cls:
            theirs = torch.cat([row.teacher.logits for row in rows])
            ours = torch.cat([row.student.logits for row in rows])
            loss = bounded_classification_distillation(ours, theirs, labels, self.temperature)
            losses["loss_bounded_cls"] = self.kd_weight * loss
            shares["correct_share"] = correct_rows(theirs, labels).sum() / max(len(labels), 1)
        if self.box:
            foreground = (labels < student.roi_heads.num_classes).nonzero().flatten()
            boxes = torch.cat([own.tensor for row in rows for own in row.sampled.boxes])
            truth = torch.cat([row.sampled.gt_boxes for row in rows])
            own = labels[foreground]
            deltas = [
                foreground_deltas(torch.cat(parts)[foreground], own)
                for parts in (
                    [row.student.deltas for row in rows],
                    [row.teacher.deltas for row in rows],
                )
            ]
            transform = box_stage(student.roi_heads).box_predictor.box2box_transform
            wanted = transform.get_deltas(boxes[foreground], truth[foreground])
            loss = bounded_box_distillation(deltas[0], deltas[1], wanted)
            losses["loss_bounded_box"] = self.kd_weight * loss
        return losses

    @staticmethod
    def _write(shares: Dict[str, Tensor]) -> None:
        storage = get_event_storage()
        if shares:
            for name, value in zip(shares, torch.stack(list(shares.values())).tolist()):
                storage.put_scalar(f"{_NAME}/{name}", value)

    def inert_reason(self, period: InertPeriod) -> str:
        if period.last_step <= self.start_step:
            return f"it begins at step {self.start_step}, where the teacher does; lower SSOD.BURN_IN_STEPS"
        return (
            "the teacher classifies no proposal rightly and no anchor lies on an object; look at the teacher's AP, or train "
            "it longer"
        )

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.plotting.charts import Line, line_chart
        from ssod.plotting.section import Section, grid, remark, run_colour

        titles: Tuple[Tuple[str, str], ...] = (
            ("correct_share", "Share of proposals that the teacher classifies rightly (q = 1)"),
            ("imitation_share", "Share of map locations in the imitation region"),
        )
        charts = [
            line_chart(
                title,
                [Line(key, run.series(f"{_NAME}/{key}"), run_colour(0))],
                low=0.0,
                with_legend=False,
            )
            for key, title in titles
        ]
        if not any(charts):
            return None
        meaning = remark(
            "Only the first share is distilled in classification, and only the second in the hint; "
            "at 0 nothing is distilled on these images."
        )
        return Section("Bounded distillation", meaning + grid([c for c in charts if c]))
