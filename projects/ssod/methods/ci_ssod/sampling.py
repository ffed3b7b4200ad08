"""Repeat-factor sampling, and class-rebalancing sampling, CrS (CI-SSOD, section 3.4).

Shapes: N_l labelled and N_u unlabelled images, K foreground classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from ssod.config import class_number
from ssod.data.label_columns import images_per_class, label_columns, repeat_factors
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)
from ssod.methods.ci_ssod.label_memory import LabelMemory
from ssod.methods.ci_ssod.repeat_factors import class_sampling_rates, repeat_factors_of_rows
from ssod.methods.shared.class_thresholds import ClassThresholds, first_step_after
from ssod.methods.shared.recording import RecordArrays
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section


def labeled_repeat_factors(records: Sequence[Dict[str, Any]], threshold: float) -> np.ndarray:
    """(N_l,) factors of Gupta et al., "LVIS", CVPR 2019: `max over classes of max(1, sqrt(threshold
    / frequency))`.
    """
    labels = label_columns(records).trained()
    return repeat_factors(labels.image, labels.classes, len(records), threshold)


@METHOD_REGISTRY.register()
class RepeatFactorSampling(Method):
    """Draws labelled images with rare classes more often. This is the row RFS, and a part of the
    other methods that CI-SSOD compares with.

    Args:
        threshold: share of images below which a class is rare.
    """

    needs = ()
    config_key = "REPEAT_FACTOR_SAMPLING"
    groups = ("repeat factors",)
    excludes = ("repeat factors",)
    needs_unlabeled = False
    threshold_key = "SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD"
    activity_unit = "images with a repeat factor above 1"
    published: Tensor
    repeated: Tensor

    def __init__(self, *, threshold: float) -> None:
        super().__init__()
        if threshold < 0:
            raise UserError(
                f"{self.threshold_key} is {threshold}: use a share of images, 0 or more."
            )
        self.threshold = threshold
        # This is part of the state: a run that resumes has published already, a run that branches
        # off has not.
        self.register_buffer("published", torch.zeros((), dtype=torch.bool))
        # Images with a factor above 1 in the last publication.
        self.register_buffer("repeated", torch.zeros(()))
        self.labeled_factors = np.ones(0, dtype=np.float32)

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.REPEAT_FACTOR_SAMPLING = CfgNode()
        cfg.SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD = 0.1  # 0.02 Objects365, 0.01 LVIS

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {"threshold": cfg.SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD}

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        # With this threshold, a class is rare if it is not in every labelled image.
        cfg.SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD = 1.0

    def setup(self, data: TrainingData) -> None:
        self.labeled_factors = labeled_repeat_factors(data.labeled, self.threshold)

    def snapshot(self, step: int) -> Optional[Dict[str, np.ndarray]]:
        if self.published:
            return None
        self.published.fill_(True)
        self.repeated.fill_(float((self.labeled_factors > 1).sum()))
        return {"repeat_factors_labeled": self.labeled_factors}

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return self.repeated

    def inert_reason(self, period: InertPeriod) -> str:
        return (
            f"no image repeats: every class is in a share of at least {self.threshold:g} of the labelled images; raise "
            f"{self.threshold_key}"
        )


@METHOD_REGISTRY.register()
class ClassRebalancingSampling(RepeatFactorSampling):
    """Draws unlabelled images with confident pseudo-labels of rare classes more often (Eq. 10, 11).

    Mutual learning is divided into generations. At the start of each one, factors are computed from
    every image's last visit after warm-up, with the labels that the main branch trained on. Images
    that were never visited have factor 1 and are not counted in Eq. 10. The thresholds are those of
    the method with class thresholds (GbT, LabelMatch), if there is one, otherwise the fixed one.

    The paper gathers statistics at a generation's end. Here ranks exchange them in each step,
    because Detectron2's checkpoints hold only the state of rank 0, and a run may be resumed in the
    middle of a generation.

    Args:
        generations: N_t. gamma: approximately the last generation's epsilon. first_step, last_step:
            begin and end of mutual learning.
        remember_from: the step that ends the warm-up. fixed_threshold: theta if no method has class
            thresholds.
    """

    config_key = "CLASS_REBALANCING_SAMPLING"
    needs_unlabeled = True
    threshold_key = "SSOD.CLASS_REBALANCING_SAMPLING.LABELED_REPEAT_THRESHOLD"
    thresholds: Tensor

    def __init__(
        self,
        *,
        threshold: float,
        generations: int,
        gamma: float,
        num_classes: int,
        first_step: int,
        last_step: int,
        remember_from: int,
        fixed_threshold: float,
    ) -> None:
        super().__init__(threshold=threshold)
        node = "SSOD.CLASS_REBALANCING_SAMPLING"
        if generations < 1:
            raise UserError(f"{node}.GENERATIONS is {generations}: use 1 or more.")
        if gamma < 0:
            raise UserError(f"{node}.GAMMA is {gamma}: use 0 or more.")
        self.generations, self.gamma = generations, gamma
        length = (last_step - first_step) / generations
        # In a very short run several generations may begin at the same step. The last one counts.
        self.begins = {first_step + round(t * length): t for t in range(generations)}
        self.remember_from = remember_from
        self.memory = LabelMemory(num_classes)
        self.labeled_counts = torch.zeros(num_classes)
        self.num_unlabeled = 0
        self.register_buffer("thresholds", torch.full((num_classes,), fixed_threshold))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.CLASS_REBALANCING_SAMPLING = CfgNode()
        node.GENERATIONS = 10
        node.GAMMA = 0.5  # COCO; 0.05 Objects365 and LVIS
        node.LABELED_REPEAT_THRESHOLD = 0.1  # 0.02 Objects365, 0.01 LVIS
        # Steps of mutual learning whose labels are not remembered. The value is for COCO; use
        # 16,000 for LVIS, 32,000 for Objects365.
        node.WARMUP_STEPS = 12000

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.CLASS_REBALANCING_SAMPLING
        return {
            "threshold": node.LABELED_REPEAT_THRESHOLD,
            "generations": node.GENERATIONS,
            "gamma": node.GAMMA,
            "num_classes": class_number(cfg)[1],
            "first_step": cfg.SSOD.BURN_IN_STEPS,
            "last_step": cfg.SOLVER.MAX_ITER,
            "remember_from": first_step_after(
                cfg, "SSOD.CLASS_REBALANCING_SAMPLING", node.WARMUP_STEPS
            ),
            "fixed_threshold": cfg.SSOD.SCORE_THRESHOLD,
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.CLASS_REBALANCING_SAMPLING
        node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        node = cfg.SSOD.CLASS_REBALANCING_SAMPLING
        node.WARMUP_STEPS, node.GENERATIONS = 0, 2
        node.GAMMA = 1e6  # scores slightly above a threshold are enough for repeats

    def setup(self, data: TrainingData) -> None:
        super().setup(data)
        self.num_unlabeled = len(data.unlabeled)
        self.num_labeled = len(data.labeled)
        counts = images_per_class(label_columns(data.labeled), len(self.labeled_counts))
        self.labeled_counts = torch.from_numpy(counts).float()

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if pseudo is None:
            return
        for method in context.methods.values():
            if isinstance(method, ClassThresholds):
                self.thresholds.copy_(method.thresholds(context))
        if context.step >= self.remember_from:
            self.memory.remember(context.batch.unlabeled, pseudo)

    def snapshot(self, step: int) -> Optional[Dict[str, np.ndarray]]:
        generation = self.begins.get(step)
        if self.published and generation is None:
            return None
        self.published.fill_(True)
        factors = self._image_factors(generation or 0)
        self.repeated.fill_(float((factors > 1).sum()))
        return {
            "repeat_factors_labeled": self.labeled_factors,
            "repeat_factors_unlabeled": factors.numpy(),
        }

    def inert_reason(self, period: InertPeriod) -> str:
        begun = sorted(begin for begin in self.begins if begin <= period.last_step)
        later = sorted(set(self.begins) - set(begun))
        if len(begun) < 2 and later:
            return (
                f"its first generation draws every image once; the second begins at step {later[0]}"
            )
        if period.last_step <= self.remember_from:
            return (
                f"it remembers no label before step {self.remember_from}; lower "
                "SSOD.CLASS_REBALANCING_SAMPLING.WARMUP_STEPS in a short run"
            )
        return (
            f"no unlabelled image repeats: of {self.memory.visited} visited images none has a label of a rare class above that "
            f"class's threshold (the best teacher score is {period.best_score:.2f}); raise "
            "SSOD.CLASS_REBALANCING_SAMPLING.GAMMA or lower the thresholds"
        )

    def _class_rates(self, generation: int) -> Tensor:
        counts = self.labeled_counts + self.memory.class_image_counts()
        epsilon = self.gamma * generation / self.generations
        return class_sampling_rates(counts, self.num_labeled + self.memory.visited, epsilon)

    def _image_factors(self, generation: int) -> Tensor:
        images, classes, scores = self.memory.rows()
        return repeat_factors_of_rows(
            images,
            classes,
            scores,
            self._class_rates(generation),
            self.thresholds.cpu(),
            self.num_unlabeled,
        )

    def build_hooks(self) -> List[HookBase]:
        return [RecordArrays(self.name, self._arrays)]

    def _arrays(self, step: int) -> Dict[str, np.ndarray]:
        generation = max([t for begin, t in self.begins.items() if begin <= step], default=0)
        counts = self.memory.class_image_counts()
        return {
            "generation": np.array([generation]),
            "rate": self._class_rates(generation).numpy(),
            "labeled_images": self.labeled_counts.numpy(),
            "pseudo_labeled_images": counts.numpy(),
            "labeled_factors": self.labeled_factors,
            "unlabeled_factors": self._image_factors(generation).numpy(),
        }

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.ci_ssod.report import sampling_section

        return sampling_section(run, cls.__name__)
