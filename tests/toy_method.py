"""A method that uses every phase of the plug-in interface, registered from outside the package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor, nn

from ssod.detectors.outputs import Outputs
from ssod.methods import METHOD_REGISTRY, Method, StepContext, TrainingData
from ssod.structures import PseudoLabels, Sample, Views
from ssod.utils.comm import all_reduce_sum


class Brighten:
    """View transform: marks the sample and brightens its strong view by what the snapshot says."""

    def __call__(self, sample: Sample, rng: np.random.Generator, snapshot: Any) -> Sample:
        amount = 0 if snapshot is None else int(snapshot.arrays["amount"][0])
        strong = (sample.strong.int() + amount).clamp(max=255).to(torch.uint8)
        return replace(
            sample, strong=strong, extras={**sample.extras, "Toy": (amount, float(rng.random()))}
        )


class CountSteps(HookBase):
    def __init__(self, method: "Toy") -> None:
        self.method = method

    def after_step(self) -> None:
        self.method.hook_calls += 1


@METHOD_REGISTRY.register()
class Toy(Method):
    """Selects by score, halves the weight of background RoIs, and predicts the number of boxes from
    res5.
    """

    config_key = "TOY"
    selects_pseudo_labels = True
    selection_key = "SSOD.TOY.SCORE_THRESHOLD"

    def __init__(self, *, threshold: float, period: int) -> None:
        super().__init__()
        self.threshold, self.period = threshold, period
        self.embedding = nn.Linear(32, 4)  # student only
        self.register_buffer("seen", torch.zeros(3))
        self.hook_calls = 0
        self.data: Optional[TrainingData] = None

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.TOY = CfgNode({"SCORE_THRESHOLD": 0.3, "PERIOD": 2})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {"threshold": cfg.SSOD.TOY.SCORE_THRESHOLD, "period": cfg.SSOD.TOY.PERIOD}

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        cfg.SSOD.TOY.PERIOD = max(1, round(cfg.SSOD.TOY.PERIOD / factor))

    def setup(self, data: TrainingData) -> None:
        self.data = data

    def attach(self, student: nn.Module) -> None:
        self.add_head(student, nn.Linear(32, 1))

    def view_transform(self) -> Optional[Callable]:
        return Brighten()

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        assert context.teacher_outputs is not None
        head = context.teacher.ssod_heads["Toy"]
        assert all(
            len(head(group.bottom_up["res5"].mean(dim=(2, 3)))) == len(group.indices)
            for group in context.teacher_outputs.maps.groups
        )
        return pseudo.select([row.scores > self.threshold for row in pseudo.instances])

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        if views.unlabeled is None:
            return views
        half = [image[:, ::2, ::2] for image in views.unlabeled.images]
        return replace(views, extra={**views.extra, self.name: half})

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        if outputs.unlabeled is None:
            return outputs
        background = outputs.unlabeled.labels == 3
        weights = torch.where(background, 0.5, outputs.unlabeled.cls_weights)
        return replace(outputs, unlabeled=replace(outputs.unlabeled, cls_weights=weights))

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        head = context.student.ssod_heads["Toy"]
        predicted, wanted = [], []
        for group in outputs.labeled.maps.groups:
            predicted.append(head(group.bottom_up["res5"].mean(dim=(2, 3))).flatten())
            wanted += [len(outputs.labeled.view.targets[i]) for i in group.indices]
        losses: Dict[str, Tensor] = {}
        if predicted:  # streams that take turns: a batch may have no labelled image
            counts = torch.tensor(wanted, device=head.weight.device).float()
            losses["loss_toy_count"] = 0.1 * F.mse_loss(torch.cat(predicted), counts)
        if outputs.unlabeled is not None:
            embedded = self.embedding(outputs.unlabeled.predictions.features.detach())
            losses["loss_toy_embedding"] = 0.01 * embedded.pow(2).mean()
            losses["loss_toy_half"] = 0.0 * outputs.extra[self.name].groups[0].features["p2"].mean()
        return losses

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        counts = torch.zeros_like(self.seen)
        for target in outputs.labeled.view.targets:
            counts += torch.bincount(target.gt_classes, minlength=3)
        all_reduce_sum([counts])
        self.seen += counts

    def snapshot(self, step: int) -> Optional[Dict[str, np.ndarray]]:
        if step % self.period:
            return None
        return {"amount": np.array([step], dtype=np.int64)}

    def build_hooks(self) -> List[HookBase]:
        assert self.data is not None and len(self.data.class_names) == 3
        assert not any("annotations" in record for record in self.data.unlabeled)
        return [CountSteps(self)]
