"""ACRST's pseudo-label filter as a plug-in: the multi-label module, its training and the second
stage.

Shapes: N images of the step, K foreground classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.config import class_number
from ssod.data.label_columns import images_per_class, label_columns
from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.acrst.two_stage.filter import MODES, two_stage_mask
from ssod.methods.acrst.two_stage.multi_label import (
    MultiLabelHead,
    multi_label_loss,
    present_classes,
    prior_of_counts,
)
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)
from ssod.methods.selection import count_per_image
from ssod.ranges import Range
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

# Decay of the statistics' sums. After about 70 more steps, a step counts half.
_DECAY = 0.99
_PUBLISH_PERIOD = 20


@METHOD_REGISTRY.register()
class TwoStageFilter(Method):
    """Keeps a prediction if its score *and* the image-level activation of its class pass.

    The image-level classifier sits on the last backbone stage of student and teacher. On labelled
    images it learns from the boxes. On unlabelled images it learns from the teacher's activations
    on the weak view.

    Args:
        score_threshold, image_threshold: tau_cls and tau_ml. mode: "filter" or "mine", see
            `two_stage_mask`.
        loss_weight: weight of the image-level loss, on either stream. focal_gamma, focal_alpha:
            shape of the loss.
        warmup: steps with labelled images that the head needs before it filters labels and teaches
            unlabelled images. An untrained head predicts each class's prior. With the prior as
            target, the head would only confirm itself.
    """

    needs = (Capability.MAPS,)
    config_key = "TWO_STAGE_FILTER"
    ranges = {"WARMUP_STEPS": Range(-1, whole=True, hint=" (-1: SSOD.BURN_IN_STEPS)")}
    excludes = ("fixed score threshold", "mixed-in images", "moved images")
    selection_key = "SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD"
    counts: Tensor
    images: Tensor

    selects_pseudo_labels = True
    needs_online_teacher = True
    activity_unit = "labels removed (or mined) by the second stage, per image"

    def __init__(
        self,
        *,
        num_classes: int,
        score_threshold: float,
        image_threshold: float,
        mode: str,
        loss_weight: float,
        focal_gamma: float,
        focal_alpha: float,
        warmup: int,
    ) -> None:
        super().__init__()
        named = {"SCORE_THRESHOLD": score_threshold, "IMAGE_THRESHOLD": image_threshold}
        for key, value in {**named, "FOCAL_ALPHA": focal_alpha}.items():
            if not 0.0 <= value <= 1.0:
                raise UserError(
                    f"SSOD.TWO_STAGE_FILTER.{key} is {value}: use a number between 0 and 1."
                )
        if mode not in MODES:
            raise UserError(f"SSOD.TWO_STAGE_FILTER.MODE is {mode!r}: use 'filter' or 'mine'.")
        self.score_threshold, self.image_threshold = score_threshold, image_threshold
        self.mode = mode
        self.loss_weight, self.focal_gamma, self.focal_alpha = loss_weight, focal_gamma, focal_alpha
        self.warmup = warmup
        self.num_classes = num_classes
        self.prior: Optional[Tensor] = None
        self._counted_step = -1
        self.class_names: List[str] = [str(index) for index in range(num_classes)]
        # The rows count unlabelled images in which the class is active, predictions with a score >=
        # tau_cls, and selected predictions.
        self.register_buffer("counts", torch.zeros(3, num_classes))
        self.register_buffer("images", torch.zeros(1))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.TWO_STAGE_FILTER = CfgNode()
        cfg.SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD = 0.7  # tau_cls
        cfg.SSOD.TWO_STAGE_FILTER.IMAGE_THRESHOLD = 0.2  # tau_ml
        # "filter": both stages must pass. "mine": one stage is enough for scores of 0.05 or more
        # (the paper's Table 6).
        cfg.SSOD.TWO_STAGE_FILTER.MODE = "filter"
        cfg.SSOD.TWO_STAGE_FILTER.LOSS_WEIGHT = 1.0
        # With alpha 0.25 and gamma 1, an activation of 0.2 is the best one at a posterior of 0.2.
        # With gamma 2 it is the best one at a posterior of 0.07.
        cfg.SSOD.TWO_STAGE_FILTER.FOCAL_GAMMA = 1.0
        cfg.SSOD.TWO_STAGE_FILTER.FOCAL_ALPHA = 0.25
        # Steps with labelled images that the head needs before it filters, and before it learns
        # from the teacher's activations. -1: SSOD.BURN_IN_STEPS.
        cfg.SSOD.TWO_STAGE_FILTER.WARMUP_STEPS = -1

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.TWO_STAGE_FILTER
        return {
            "warmup": cfg.SSOD.BURN_IN_STEPS if node.WARMUP_STEPS < 0 else node.WARMUP_STEPS,
            "num_classes": class_number(cfg)[1],
            "score_threshold": node.SCORE_THRESHOLD,
            "image_threshold": node.IMAGE_THRESHOLD,
            "mode": node.MODE,
            "loss_weight": node.LOSS_WEIGHT,
            "focal_gamma": node.FOCAL_GAMMA,
            "focal_alpha": node.FOCAL_ALPHA,
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.TWO_STAGE_FILTER
        if node.WARMUP_STEPS > 0:
            node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        # This threshold divides the classes: their image-level activations begin at their priors,
        # 0.375 to 0.5.
        cfg.SSOD.TWO_STAGE_FILTER.IMAGE_THRESHOLD = 0.44

    def setup(self, data: TrainingData) -> None:
        self.class_names = list(data.class_names)
        present = images_per_class(label_columns(data.labeled), self.num_classes)
        self.prior = prior_of_counts(torch.from_numpy(present).float(), len(data.labeled))

    def attach(self, student: GeneralizedRCNN) -> None:
        self.add_head(student, MultiLabelHead.for_detector(student, self.prior))

    def warm(self, context: StepContext) -> Tensor:
        """A bool scalar: whether the head has had its labelled steps.

        The scalar stays on the device, which avoids a synchronisation.
        """
        return context.student.ssod_heads[self.name].labeled_steps >= self.warmup

    def present(self, context: StepContext) -> Optional[Tensor]:
        """All classes during warm-up. None in "mine" mode, which only adds labels."""
        if self.mode != "filter":
            return None
        return (context.shared[self.name] >= self.image_threshold) | ~self.warm(context)

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        assert context.teacher_outputs is not None
        head = context.teacher.ssod_heads[self.name]
        activations = head(context.teacher_outputs.maps).sigmoid()
        context.shared[self.name] = activations
        masks = self._masks(pseudo, context)
        first = self.compared_labels(pseudo, context)["first_stage"]
        changed = [before != after for before, after in zip(first, masks)]
        context.shared[f"{self.name}/changed"] = count_per_image(changed)
        return pseudo.select(masks)

    def compared_labels(
        self, pseudo: PseudoLabels, context: StepContext
    ) -> Dict[str, List[Tensor]]:
        """Labels that pass the first stage, so that hooks can measure the second (Table 6)."""
        return {"first_stage": [row.scores >= self.score_threshold for row in pseudo.instances]}

    def _masks(self, pseudo: PseudoLabels, context: StepContext) -> List[Tensor]:
        """Which labels pass, one bool (M,) for each image. During warm-up only the first stage
        counts.
        """
        warm = self.warm(context)
        return [
            torch.where(warm, self._mask(row, scores), row.scores >= self.score_threshold)
            for row, scores in zip(pseudo.instances, context.shared[self.name])
        ]

    def _mask(self, row: Instances, image_scores: Tensor) -> Tensor:
        """(M,) bool: which of an image's labels pass both stages.

        Args:
            image_scores: (K,) activations.
        """
        return two_stage_mask(
            row.scores,
            row.gt_classes,
            image_scores,
            self.score_threshold,
            self.image_threshold,
            self.mode,
        )

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        """The image-level loss. On labelled images each view's own boxes decide which classes are
        present.

        On unlabelled images a class is present if the teacher's activation says so, or if the
        strong view has a training label of it. In "filter" mode, these labels add the classes of
        pasted objects (CropBank), which the teacher has not seen. During warm-up the loss on
        unlabelled images is 0.
        """
        head = context.student.ssod_heads[self.name]
        labeled = outputs.labeled
        classes, device = len(self.class_names), context.student.device
        present = present_classes(labeled.view.targets, classes, device)
        losses = {"loss_multi_label": self._loss(head(labeled.maps), present)}
        if outputs.unlabeled is not None:
            active = context.shared[self.name] >= self.image_threshold
            active = active | present_classes(outputs.unlabeled.view.targets, classes, device)
            loss = self._loss(head(outputs.unlabeled.maps), active)
            losses["loss_multi_label_unlabeled"] = loss * self.warm(context)
        return losses

    def _loss(self, logits: Tensor, present: Tensor) -> Tensor:
        return self.loss_weight * multi_label_loss(
            logits, present, self.focal_gamma, self.focal_alpha
        )

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if outputs.labeled.view.images and context.step != self._counted_step:
            self._counted_step = (
                context.step
            )  # once per optimiser step, however many micro-batches it has
            context.student.ssod_heads[self.name].labeled_steps += 1
        if pseudo is None:
            return
        active = (context.shared[self.name] >= self.image_threshold).float().sum(dim=0)
        rows = pseudo.instances
        classes = torch.cat([row.gt_classes for row in rows])
        first = torch.cat([row.scores >= self.score_threshold for row in rows])
        kept = torch.cat([row.selected for row in rows])
        added = torch.zeros_like(self.counts)
        added[0] = active
        added[1].index_add_(0, classes, first.float())
        added[2].index_add_(0, classes, kept.float())
        images = self.images.new_full((1,), float(len(rows)))
        all_reduce_sum([added, images])
        self.counts.mul_(_DECAY).add_(added)
        self.images.mul_(_DECAY).add_(images)
        if context.step % _PUBLISH_PERIOD == 0:
            self._publish()

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        if pseudo is None:
            return 0.0
        return context.shared[f"{self.name}/changed"]

    def inert_reason(self, period: InertPeriod) -> str:
        if period.last_step <= self.warmup:
            return f"its head is in warm-up for SSOD.TWO_STAGE_FILTER.WARMUP_STEPS, {self.warmup} steps with labelled images"
        key = "SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD"
        if self.mode == "filter" and period.best_score < self.score_threshold:
            return period.no_score_passes(self.score_threshold, key) or ""
        share = self.counts[0].sum() / (self.images * len(self.class_names)).clamp(min=1e-6)
        return (
            f"the image-level stage calls {100 * float(share):.0f} % of the classes present in an unlabelled image, and every "
            "label's class is among them; raise SSOD.TWO_STAGE_FILTER.IMAGE_THRESHOLD or train its head longer"
        )

    def removed_classes(self) -> List[str]:
        """Classes that recently passed the first stage but never the second."""
        if self.mode != "filter":
            return []
        first, kept = self.counts[1], self.counts[2]
        # The sums decay, so an old label counts little. A class with a label in 50 images is not a
        # coincidence.
        whole = (first > 0.02 * self.images) & (kept < 0.01 * first)
        return [self.class_names[index] for index in whole.nonzero().flatten().tolist()]

    def _publish(self) -> None:
        storage = get_event_storage()
        active, first, kept = (self.counts / self.images).tolist()
        storage.put_scalar(
            "two_stage_filter/first_stage_per_image", sum(first), smoothing_hint=False
        )
        storage.put_scalar("two_stage_filter/kept_per_image", sum(kept), smoothing_hint=False)
        for what, values in (("active", active), ("first_stage", first), ("kept", kept)):
            for name, value in zip(self.class_names, values):
                storage.put_scalar(f"two_stage_filter/{what}/{name}", value, smoothing_hint=False)

    def build_hooks(self) -> List[HookBase]:
        from ssod.methods.acrst.two_stage.head_quality import HeadQuality

        return [HeadQuality(self)] if comm.is_main_process() else []

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.acrst.two_stage.report import two_stage_section

        return two_stage_section(run)
