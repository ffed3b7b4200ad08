"""Plans the phases, each as a training run (Algorithm 1 of the multi-phase paper)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import List, Sequence, Tuple

from detectron2.config import CfgNode

from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.readings import register_datasets
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.sweep.plan import changed_since
from ssod.utils.run_folder import weights_of


@dataclass(frozen=True)
class Phase:
    """One model of the sequence.

    Attributes:
        index: 0 is supervised. folder: its OUTPUT_DIR. fraction: share of the unlabelled images.
        overrides: KEY VALUE pairs that turn the common config into this phase's. `train_net.py`
            with them does the same run.
        given: weights, or the folder of a run, that replace this training. Empty if the phase is
            trained.
    """

    index: int
    folder: str
    fraction: float
    overrides: Sequence[str]
    given: str = ""

    @property
    def labels(self) -> str:
        """The file of pseudo-labels that it trains on."""
        return os.path.join(self.folder, "pseudo_labels.json")

    @property
    def finished(self) -> bool:
        """Whether results.json exists. A training writes this file last."""
        return bool(self.given) or os.path.exists(os.path.join(self.folder, "results.json"))

    @property
    def weights(self) -> str:
        """Its final model (`weights_of`), which is never chosen on the test set."""
        return weights_of(self.given or self.folder)


@dataclass(frozen=True)
class _Streams:
    """Sizes of sets and batches, for `SSOD.MULTI_PHASE.CONCATENATE`.

    Attributes:
        labeled, unlabeled: number of images of the sets. batch: images of one step, both streams
            together. labeled_batch: the config's labelled images of one step.
        multiple: both parts of a batch are multiples of this number. lr: SOLVER.BASE_LR.
    """

    labeled: int
    unlabeled: int
    batch: int
    labeled_batch: int
    multiple: int
    lr: float

    @classmethod
    def of(cls, cfg: CfgNode) -> "_Streams":
        register_datasets(cfg)
        own, other = cfg.SOLVER.IMS_PER_BATCH, cfg.SSOD.IMS_PER_BATCH_UNLABELED
        return cls(
            labeled=len(load_labeled(cfg)),
            unlabeled=len(load_unlabeled(cfg)),
            batch=own + other,
            labeled_batch=own,
            multiple=max(1, cfg.SOLVER.REFERENCE_WORLD_SIZE)
            * cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS,
            lr=cfg.SOLVER.BASE_LR,
        )

    def of_phase_0(self) -> List[str]:
        """Overrides of phase 0. It has fewer images per step, so the learning rate is lower in
        proportion.
        """
        return ["SOLVER.BASE_LR", repr(self.lr * self.labeled_batch / self.batch)]

    def of_phase(self, fraction: float) -> List[str]:
        """Overrides of a phase that keeps this share of the unlabelled images."""
        kept = max(1, round(fraction * self.unlabeled))
        share = self.labeled / (self.labeled + kept)
        labeled_batch, unlabeled_batch = self.labeled_batch, self.batch - self.labeled_batch
        if self.batch >= 2 * self.multiple:
            labeled_batch, unlabeled_batch = split_batch(self.batch, share, self.multiple)
        return [
            *("SOLVER.IMS_PER_BATCH", str(labeled_batch)),
            *("SSOD.IMS_PER_BATCH_UNLABELED", str(unlabeled_batch)),
            *("SSOD.SUP_LOSS_WEIGHT", repr(share)),
            *("SSOD.UNSUP_LOSS_WEIGHT", repr(1 - share)),
        ]


def split_batch(batch: int, share: float, multiple: int) -> Tuple[int, int]:
    """The numbers of labelled and unlabelled images of a batch, as near to the share as whole
    multiples allow.

    Args:
        batch: at least two multiples, so that neither part is empty.

    Example:
        >>> split_batch(16, share=0.3, multiple=1)
        (5, 11)
    """
    units = batch // multiple
    labeled = min(max(round(units * share), 1), units - 1) * multiple
    return labeled, batch - labeled


def plan_phases(cfg: CfgNode) -> List[Phase]:
    """All phases of a config, in order.

    Raises:
        UserError: the config has no methods or no unlabelled images, or a key is wrong.
    """
    node = cfg.SSOD.MULTI_PHASE
    if not 0 < node.FRACTION <= 1:
        raise UserError(
            f"SSOD.MULTI_PHASE.FRACTION is {node.FRACTION}: use a share of the images, above 0 and at most 1."
        )
    if node.PHASES < 1:
        raise UserError(f"SSOD.MULTI_PHASE.PHASES is {node.PHASES}: use 1 or more.")
    if not cfg.SSOD.METHODS or not cfg.DATASETS.UNLABELED:
        raise UserError(
            "SSOD.METHODS or DATASETS.UNLABELED is empty: phases need both, see configs/digit_scenes/multi_phase.yaml."
        )
    if node.PHASE_0_WEIGHTS and not os.path.isfile(weights_of(node.PHASE_0_WEIGHTS)):
        raise UserError(
            f"SSOD.MULTI_PHASE.PHASE_0_WEIGHTS {node.PHASE_0_WEIGHTS} does not exist: train it or correct the path."
        )
    streams = _Streams.of(cfg) if node.CONCATENATE else None
    phases = []
    for index in range(node.PHASES + 1):
        folder = os.path.join(cfg.OUTPUT_DIR, f"phase_{index}")
        overrides = ["OUTPUT_DIR", folder]
        if cfg.SEED >= 0:  # models of an ensemble should start from different seeds
            overrides += ["SEED", str(cfg.SEED + index)]
        if index == 0:
            overrides += ["SSOD.METHODS", "()", "DATASETS.UNLABELED", "()"]
            overrides += ["SSOD.PSEUDO_LABELS", ""]
            # The supervised phase does not depend on the number of later phases.
            overrides += ["SSOD.MULTI_PHASE.PHASES", "1"]
            if streams is not None:
                overrides += streams.of_phase_0()
        else:
            overrides += ["SSOD.PSEUDO_LABELS", os.path.join(folder, "pseudo_labels.json")]
            if streams is not None:
                overrides += streams.of_phase(node.FRACTION * index / node.PHASES)
        given = node.PHASE_0_WEIGHTS if index == 0 else ""
        fraction = node.FRACTION * index / node.PHASES
        phases.append(Phase(index, folder, fraction, overrides, given))
    return phases


def check_unchanged(phases: Sequence[Phase], config_file: str, opts: Sequence[str]) -> None:
    """Raises `UserError` if a phase was begun with another config."""
    for phase in phases:
        if phase.given:
            continue
        cfg = load_config(config_file, [*opts, *phase.overrides])
        difference = changed_since(cfg, phase.folder)
        if difference:
            raise UserError(
                f"{phase.folder} was begun with another config ({difference}): choose another OUTPUT_DIR, or remove it."
            )
