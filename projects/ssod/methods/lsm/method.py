"""PIM and self-distillation: Low-Confidence Samples Mining (Liu et al., IJCAI 2023).

L = L_m^s + lambda_u (L_m^u + L_p + L_distill)  (Eq. 3). `PIM` is L_p, and `SelfDistillation`
is L_distill.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ssod.config import class_number
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.roi_heads import classify
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext, find_method
from ssod.methods.lsm.branch import HalfSizeBranch
from ssod.methods.lsm.distillation import (
    bernoulli_distillation_loss,
    in_interval,
    self_distillation_loss,
)
from ssod.methods.selection import count_per_image, main_threshold
from ssod.methods.shared.class_thresholds import ClassThresholds
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section


class StartAsMain(HookBase):
    """PIM's classifier becomes a copy of the main branch's when mutual learning starts.

    A fresh one says nothing for its first hundreds of steps, and `SelfDistillation` would pull the
    main branch towards that.
    """

    def __init__(self, own: nn.Module, main: nn.Module, step: int) -> None:
        self.own, self.main, self.step = own, main, step

    def before_step(self) -> None:
        if self.trainer.iter == self.step:
            self.own.load_state_dict(self.main.state_dict())


def _shapes(module: nn.Module) -> Dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


@METHOD_REGISTRY.register()
class PIM(HalfSizeBranch):
    """Pseudo information mining (Eq. 6): a branch with its own classifier learns labels that score
    above `alpha`, on half-size images.

    The branch shares the box regressor, the box head and everything below with the main branch. On
    Deformable DETR these labels are matched with the main branch's queries. The same queries then
    learn them on the half-size image.

    Args:
        alpha: labels with a higher score take part.
        main_threshold: t, the main branch's threshold, which must be above `alpha`.
        main_key: the config key of t.
        thresholds_move: whether a method of the main branch has its own threshold for each class.
            Then t is the threshold of the label's class in this step, and `main_threshold` is its
            lower bound.
        num_classes: K. copy_at: the step at which the classifier becomes a copy of the main
            branch's. None: never. `HalfSizeBranch` describes the other arguments.
    """

    config_key = "PIM"
    groups = ("labels mined at half size",)
    activity_unit = "labels mined between alpha and t, per image"

    def __init__(
        self,
        *,
        alpha: float,
        main_threshold: float,
        main_key: str,
        num_classes: int,
        thresholds_move: bool = False,
        loss_weight: float,
        unsup_loss_weight: float,
        in_features: Sequence[str],
        cls_loss: str,
        focal_gamma: float,
        copy_at: Optional[int] = None,
    ) -> None:
        super().__init__(
            loss_weight=loss_weight,
            unsup_loss_weight=unsup_loss_weight,
            in_features=in_features,
            cls_loss=cls_loss,
            focal_gamma=focal_gamma,
        )
        if not 0.0 <= alpha < (1.0 if thresholds_move else main_threshold):
            raise UserError(
                f"SSOD.PIM.SCORE_THRESHOLD is {alpha:g} and the main branch's {main_key} is {main_threshold:g}: the first "
                "must be the lower one, and not negative."
            )
        self.alpha, self.main_threshold = alpha, main_threshold
        self.copy_at = copy_at
        self.num_classes = num_classes

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.PIM = CfgNode()
        # alpha: labels with a higher score take part. The main branch's threshold must be higher.
        cfg.SSOD.PIM.SCORE_THRESHOLD = 0.5
        cfg.SSOD.PIM.LOSS_WEIGHT = 0.5
        # Which half-size maps take part (P2^d, P3^d, P4^d).
        cfg.SSOD.PIM.IN_FEATURES = ("p2", "p3", "p4")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        key, threshold = main_threshold(cfg)
        kinds = [METHOD_REGISTRY.get(name) for name in cfg.SSOD.METHODS]
        return {
            **super().from_config(cfg),
            "thresholds_move": any(issubclass(kind, ClassThresholds) for kind in kinds),
            "alpha": cfg.SSOD.PIM.SCORE_THRESHOLD,
            "main_threshold": threshold,
            "main_key": key,
            "num_classes": class_number(cfg)[1],
            "loss_weight": cfg.SSOD.PIM.LOSS_WEIGHT,
            "in_features": cfg.SSOD.PIM.IN_FEATURES,
            # Weights of sigmoids mean nothing to a softmax.
            "copy_at": (
                None
                if any("sigmoid classifier" in kind.groups for kind in kinds)
                else cfg.SSOD.BURN_IN_STEPS
            ),
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.SSOD.PIM.SCORE_THRESHOLD = low  # below the main branch's

    def attach(self, student: Any) -> None:
        super().attach(student)
        # The classifier belongs to the Method, so that neither teacher nor exported model has it.
        # It is initialised as the main branch's classifier is.
        if self.paired:
            main: nn.Module = student.class_heads()
            self.classifier = copy.deepcopy(main)
        else:
            main = box_stage(student.roi_heads).box_predictor.cls_score
            self.classifier = nn.Linear(main.in_features, self.num_classes + 1)  # type: ignore[arg-type]
            self.classifier.to(student.device)
            nn.init.normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.bias)
        self._main = [main]  # in a list, because its parameters are the student's

    def build_hooks(self) -> List[HookBase]:
        own, main = self.classifier, self._main[0]
        if self.copy_at is None or _shapes(own) != _shapes(main):  # C2AM's have no bias
            return []
        return [StartAsMain(own, main, self.copy_at)]

    def masks(self, pseudo: PseudoLabels, context: StepContext) -> List[Tensor]:
        """Labels above alpha, even if the main branch has not selected them.

        If a method (TwoStageFilter) finds a class absent from an image, PIM does not learn that
        class there, even with a high score.
        """
        masks = [row.scores > self.alpha for row in pseudo.instances]
        for method in context.methods.values():
            present = method.present(context)
            if present is None:
                continue
            masks = [
                mask & (row.selected | present[index, row.gt_classes])  # pasted labels are selected
                for index, (mask, row) in enumerate(zip(masks, pseudo.instances))
            ]
        return masks

    def upper_scores(self, classes: Tensor, context: StepContext) -> Union[float, Tensor]:
        """The threshold t for labels or RoIs of these classes (R,). Class K is background.

        Returns:
            One number for all of them, or (R,).
        """
        thresholds = self._class_thresholds(context)
        return self.main_threshold if thresholds is None else thresholds[classes]

    def _class_thresholds(self, context: StepContext) -> Optional[Tensor]:
        """t of each class in this step, (K + 1,). None if all classes have `main_threshold`."""
        moving = find_method(context.methods, ClassThresholds)
        if moving is None:
            return None
        key = f"{self.name}/thresholds"
        if key not in context.shared:
            found = moving.thresholds(context).clamp(min=self.main_threshold)
            # No label has class K, so its entry has no meaning.
            context.shared[key] = torch.cat([found, found.new_zeros(1)])
        return context.shared[key]

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        # Stores the thresholds for `update`. Other methods may have changed theirs by then.
        self._class_thresholds(context)
        return super().losses(outputs, pseudo, context)

    def logits(self, predictor: FastRCNNOutputLayers, features: Tensor) -> Tensor:
        return self.classifier(features)

    def class_heads(self) -> Optional[nn.ModuleList]:
        return self.classifier  # type: ignore[return-value]

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if pseudo is None:
            return
        scores = torch.cat([row.scores for row in pseudo.instances])
        classes = torch.cat([row.gt_classes for row in pseudo.instances])
        mined = in_interval(scores, self.alpha, self.upper_scores(classes, context)).sum().float()
        all_reduce_sum([mined])
        get_event_storage().put_scalar("pim/mined_boxes", float(mined))

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        if outputs is None or outputs.unlabeled is None or outputs.unlabeled.view.pseudo is None:
            return 0.0
        if self.loss_weight == 0:
            return 0.0
        labels = outputs.unlabeled.view.pseudo
        masks = [
            mask & in_interval(row.scores, self.alpha, self.upper_scores(row.gt_classes, context))
            for mask, row in zip(self.masks(labels, context), labels.instances)
        ]
        return count_per_image(masks)

    def inert_reason(self, period: InertPeriod) -> str:
        if self.loss_weight == 0:
            return "SSOD.PIM.LOSS_WEIGHT or SSOD.UNSUP_LOSS_WEIGHT is 0"
        return period.no_score_passes(self.alpha, "SSOD.PIM.SCORE_THRESHOLD") or (
            f"no label that may be mined scores between alpha {self.alpha:g} and t {self.main_threshold:g} (the best "
            f"teacher score is {period.best_score:.2f}); lower SSOD.PIM.SCORE_THRESHOLD"
        )

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.lsm.report import pim_section

        return pim_section(run)


@METHOD_REGISTRY.register()
class SelfDistillation(Method):
    """The main and the auxiliary classifier learn from each other on PIM's RoIs of low confidence
    (Eq. 7). In a detector with queries, they learn on the queries that PIM matches with a
    low-confidence label.

    The sum over RoIs is divided by the number of RoIs that PIM sampled, as in PIM's own losses. So
    a label weighs the same in steps with few and with many labels.

    Args:
        loss_weight: weight of the divergence.
        unsup_loss_weight: lambda_u, a further factor (Eq. 3).
    """

    needs = PIM.needs
    config_key = "SELF_DISTILLATION"
    excludes = ("sigmoid classifier",)
    requires = (PIM.__name__,)
    activity_unit = "RoIs or queries distilled, per image"

    def __init__(self, *, loss_weight: float, unsup_loss_weight: float) -> None:
        super().__init__()
        self.loss_weight = loss_weight * unsup_loss_weight

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.SELF_DISTILLATION = CfgNode({"LOSS_WEIGHT": 1.0})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            "loss_weight": cfg.SSOD.SELF_DISTILLATION.LOSS_WEIGHT,
            "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT,
        }

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        if outputs.unlabeled is None:
            return {}
        pim = find_method(context.methods, PIM)
        assert pim is not None
        if pim.paired:
            return self._paired_losses(pim, outputs, context)
        branch = pim.run(outputs, context)
        # The main branch pools only those RoIs of PIM whose label has a score in the interval.
        counting = [
            in_interval(roi.gt_scores, pim.alpha, pim.upper_scores(roi.gt_classes, context))
            for roi in branch.rois
        ]
        rows = torch.cat(counting).nonzero().flatten()
        boxes = [roi.proposal_boxes[mask] for roi, mask in zip(branch.rois, counting)]
        main = classify(context.student.roi_heads, outputs.unlabeled.maps, boxes)
        classes = torch.cat([roi.gt_classes for roi in branch.rois])[rows]
        loss = self_distillation_loss(
            main.logits,
            branch.predictions.logits[rows],
            branch.scores[rows],
            pim.alpha,
            pim.upper_scores(classes, context),
        )
        # The loss is divided by the number of all RoIs that PIM sampled, not of the pooled ones.
        loss = loss * (len(rows) / max(branch.sampled, 1))
        get_event_storage().put_scalar("pim/distilled_rois_per_image", len(rows) / len(boxes))
        context.shared[self.name] = len(rows) / len(boxes)
        return {"loss_self_distillation": self.loss_weight * loss}

    def _paired_losses(self, pim: PIM, outputs: Outputs, context: StepContext) -> Dict[str, Tensor]:
        """The loss on those queries of the last decoder layer whose label has a score in the
        interval.
        """
        pairs = pim.run_paired(outputs, context)
        index = pairs.assignment[-1]
        scores = pairs.labels.gather(pairs.labels.scores, index, 0.0)
        classes = pairs.labels.gather(pairs.labels.classes, index, pim.num_classes)
        rows = in_interval(scores, pim.alpha, pim.upper_scores(classes, context))
        assert outputs.unlabeled is not None
        main = outputs.unlabeled.predictions.decoder.logits[-1]
        # The loss is divided by the number of PIM's labels, as PIM's own losses are.
        loss = bernoulli_distillation_loss(main[rows], pairs.logits[-1][rows]) / pairs.count
        share = rows.sum() / len(index)
        get_event_storage().put_scalar("pim/distilled_queries_per_image", float(share))
        context.shared[self.name] = share
        return {"loss_self_distillation": self.loss_weight * loss}

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return 0.0 if self.loss_weight == 0 else context.shared.get(self.name, 0.0)

    def inert_reason(self, period: InertPeriod) -> str:
        if self.loss_weight == 0:
            return "SSOD.SELF_DISTILLATION.LOSS_WEIGHT or SSOD.UNSUP_LOSS_WEIGHT is 0"
        return (
            "no RoI is matched with a label between PIM's alpha and the main branch's t (the best teacher score is "
            f"{period.best_score:.2f}); lower SSOD.PIM.SCORE_THRESHOLD or train longer before mutual learning "
            "(SSOD.BURN_IN_STEPS)"
        )
