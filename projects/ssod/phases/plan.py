"""Which phases there are, as training runs of their own (Algorithm 1 of the multi-phase paper)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import List, Sequence

from detectron2.config import CfgNode

from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.sweep.plan import changed_since
from ssod.utils.run_folder import weights_of


@dataclass(frozen=True)
class Phase:
    """One model of the sequence.

    Attributes:
        index: 0 is supervised. folder: its OUTPUT_DIR. fraction: of the unlabelled images.
        overrides: KEY VALUE pairs that turn the common config into this phase's: `train_net.py` with them is the same run.
        given: weights, or the folder of a run, that stand for it instead of a training; empty where it is trained.
    """

    index: int
    folder: str
    fraction: float
    overrides: Sequence[str]
    given: str = ""

    @property
    def labels(self) -> str:
        """The pseudo-labels that it trains on."""
        return os.path.join(self.folder, "pseudo_labels.json")

    @property
    def finished(self) -> bool:
        """A training writes its results last of all."""
        return bool(self.given) or os.path.exists(os.path.join(self.folder, "results.json"))

    @property
    def weights(self) -> str:
        """Its model once it is finished, see `weights_of`: never one that was chosen on the test set."""
        return weights_of(self.given or self.folder)


def plan_phases(cfg: CfgNode) -> List[Phase]:
    """All phases of a config, in order.

    Raises:
        UserError: there is nothing to do in phases.
    """
    node = cfg.SSOD.MULTI_PHASE
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
    phases = []
    for index in range(node.PHASES + 1):
        folder = os.path.join(cfg.OUTPUT_DIR, f"phase_{index}")
        overrides = ["OUTPUT_DIR", folder]
        if cfg.SEED >= 0:  # models that vote should not begin alike
            overrides += ["SEED", str(cfg.SEED + index)]
        if index == 0:
            overrides += ["SSOD.METHODS", "()", "DATASETS.UNLABELED", "()"]
            overrides += ["SSOD.PSEUDO_LABELS", ""]
            # The supervised phase is the same however many follow.
            overrides += ["SSOD.MULTI_PHASE.PHASES", "1"]
        else:
            overrides += ["SSOD.PSEUDO_LABELS", os.path.join(folder, "pseudo_labels.json")]
        given = node.PHASE_0_WEIGHTS if index == 0 else ""
        phases.append(Phase(index, folder, index / node.PHASES, overrides, given))
    return phases


def check_unchanged(phases: Sequence[Phase], config_file: str, opts: Sequence[str]) -> None:
    """Raises `UserError` where a phase was begun with another config, which would not be the same experiment."""
    for phase in phases:
        if phase.given:
            continue
        cfg = load_config(config_file, [*opts, *phase.overrides])
        difference = changed_since(cfg, phase.folder)
        if difference:
            raise UserError(
                f"{phase.folder} was begun with another config ({difference}): choose another OUTPUT_DIR, or remove it."
            )
