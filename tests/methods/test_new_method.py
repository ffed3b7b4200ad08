"""A new method joins the composition tests by being registered: it declares what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, Type

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN

from runs import method_cfg, train
from ssod.methods import METHOD_REGISTRY, Method, StepContext
from ssod.methods.defrcn import DecoupledROIHeads
from ssod.structures import PseudoLabels
from tiny import tiny_cfg


class Damp(Method):
    """Halves the weight of labels with a high score, and needs heads of its own."""

    config_key = "DAMP"
    trial_score_scale = 0.5

    def __init__(self, *, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.DAMP = CfgNode({"SCORE_THRESHOLD": 0.99})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {"threshold": cfg.SSOD.DAMP.SCORE_THRESHOLD}

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.MODEL.ROI_HEADS.NAME = "DecoupledROIHeads"
        cfg.SSOD.DAMP.SCORE_THRESHOLD = low

    def attach(self, student: GeneralizedRCNN) -> None:
        assert isinstance(student.roi_heads, DecoupledROIHeads)

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        columns = [
            {"roi_cls_weight": row.roi_cls_weight * (1 - 0.5 * (row.scores > self.threshold))}
            for row in pseudo.instances
        ]
        return pseudo.with_columns(columns)


@pytest.fixture
def damp() -> Iterator[Type[Method]]:
    METHOD_REGISTRY.register(Damp)
    yield Damp
    METHOD_REGISTRY._obj_map.pop("Damp")


def test_a_registered_method_needs_no_entry_elsewhere(
    squares: Path, tmp_path: Path, damp: Type[Method]
) -> None:
    assert tiny_cfg().SSOD.DAMP.SCORE_THRESHOLD == 0.99
    cfg = method_cfg(squares, tmp_path, ("Damp",), 3)
    assert cfg.SSOD.METHODS == ("ScoreThreshold", "Damp")  # something must select
    assert cfg.SSOD.SCORE_THRESHOLD == pytest.approx(0.1)  # `high`, scaled
    assert cfg.SSOD.DAMP.SCORE_THRESHOLD == pytest.approx(0.05)

    def activity() -> float:
        history = train(cfg).storage.history("activity/Damp")
        return max(value for value, _ in history.values())

    assert activity() > 0
    cfg.SSOD.DAMP.SCORE_THRESHOLD = 0.99
    assert activity() == 0


def test_the_default_lowers_what_selects() -> None:
    cfg = tiny_cfg()
    cfg.SSOD.SCORE_THRESHOLD = 0.7
    METHOD_REGISTRY.get("PseudoBoxRegression").trial_config(cfg, 0.2, 0.1)
    assert cfg.SSOD.SCORE_THRESHOLD == 0.7
    METHOD_REGISTRY.get("ScoreThreshold").trial_config(cfg, 0.2, 0.1)
    METHOD_REGISTRY.get("PseCo").trial_config(cfg, 0.3, 0.1)
    assert cfg.SSOD.SCORE_THRESHOLD == 0.2 and cfg.SSOD.PSECO.SCORE_THRESHOLD == 0.3
