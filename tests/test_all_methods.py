"""Every method alone, in pairs, all papers at once, and each paper's methods on each host.

New methods join by being registered.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
import torch

from runs import FULL_STACK, METHOD_NAMES, digest, method_cfg, state_of, train, with_stored_labels
from ssod.engine.setup import load_config
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY, build_methods

ROOT = Path(__file__).parent.parent


def highest(trainer: SSODTrainer, name: str) -> float:
    """The highest value of the run. That of an untrained detector's last step would be chance."""
    return max(value for value, _ in trainer.storage.history(name).values())


def assert_sane(trainer: SSODTrainer) -> None:
    """Finite losses and state, pseudo-labels in the last step, and in some step some that the main
    branch learns if the teacher finds anything.
    """
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())
    assert trainer.core.last_pseudo is not None
    # The first step may leave an untrained detector that finds only background.
    if highest(trainer, "pseudo/candidates_per_image") > 0:
        assert highest(trainer, "pseudo/boxes_per_image") > 0


# Pairs are many, and what a processor's kernels change shows in single methods and in stacks.
ALONE = [(name,) for name in METHOD_NAMES]


@pytest.mark.parametrize("names", [*ALONE, *itertools.combinations(METHOD_NAMES, 2)])
def test_methods_train(squares: Path, tmp_path: Path, names: Tuple[str, ...]) -> None:
    cfg = method_cfg(squares, tmp_path / "run", names, 3)
    try:
        trainer = train(cfg)
    except UserError as error:
        assert "cannot be combined" in str(error) and all(name in str(error) for name in names)
        assert "\n" not in str(error)
        return
    assert_sane(trainer)


@pytest.mark.parametrize("names", [*ALONE, FULL_STACK])
def test_method_resumes_to_the_bit(squares: Path, tmp_path: Path, names: Tuple[str, ...]) -> None:
    whole = train(method_cfg(squares, tmp_path / "whole", names, 5))
    cfg = method_cfg(squares, tmp_path / "parts", names, 5)
    train(cfg)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts: SSODTrainer = train(cfg, resume=True)
    assert parts.start_iter == 2
    assert digest(state_of(whole)) == digest(state_of(parts))


# ---------------------------------------------------------------- what each method has done


def inert(trainer: SSODTrainer) -> List[str]:
    """Methods that changed nothing in any step."""
    return [name for name in trainer.core.methods if not highest(trainer, f"activity/{name}") > 0]


@pytest.mark.trains
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_acts(squares: Path, tmp_path: Path, name: str) -> None:
    trainer = train(method_cfg(squares, tmp_path, (name,), 6))
    assert METHOD_REGISTRY.get(name).activity_unit
    assert not inert(trainer)
    values = [
        value
        for key in trainer.storage.histories()
        if key.startswith("activity/")
        for value, _ in trainer.storage.history(key).values()
    ]
    assert len(values) == 6 * len(trainer.core.methods)  # one a method and step
    assert all(math.isfinite(value) and value >= 0 for value in values)


def banks_pasted_from(trainer: SSODTrainer) -> set[int]:
    samples = trainer.core.last_batch.unlabeled
    return set(torch.cat([sample.extras["CropBank"].banks for sample in samples]).tolist())


def some_but_not_all_selected(trainer: SSODTrainer) -> bool:
    chosen = torch.cat([row.selected for row in trainer.core.last_pseudo.instances])
    return bool(chosen.any() and not chosen.all())


@pytest.mark.trains
def test_full_stack(squares: Path, tmp_path: Path) -> None:
    cfg = method_cfg(squares, tmp_path, FULL_STACK, 6)
    # PIM does not mine labels that the filter rejects. So there is first something to distil, then
    # something to reject.
    cfg.SSOD.TWO_STAGE_FILTER.WARMUP_STEPS = 4
    trainer = train(cfg)
    assert_sane(trainer)
    assert some_but_not_all_selected(trainer)
    assert not inert(trainer)
    assert banks_pasted_from(trainer) == {0, 1}  # labelled and pseudo
    assert all(highest(trainer, f"loss_bounded_{part}") > 0 for part in ("hint", "cls", "box"))
    assert highest(trainer, "loss_box_reg_unlabeled") > 0  # pasted boxes regress


def test_full_stack_config_is_this_one() -> None:
    cfg = load_config(str(ROOT / "configs/digit_scenes/full_stack.yaml"))
    assert cfg.SSOD.METHODS == FULL_STACK
    build_methods(cfg)
    # What stands before GbT's thresholds must leave it something to choose, and PIM something to
    # mine.
    lowest = cfg.SSOD.GRADIENT_THRESHOLDING.LOW
    assert cfg.SSOD.PIM.SCORE_THRESHOLD < cfg.SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD <= lowest
    assert cfg.INPUT.RANDOM_FLIP == "none" and cfg.SSOD.CROP_BANK.FLIP_PROB == 0.0


# ---------------------------------------------------------------- hosts

HOSTS: Dict[str, Tuple[Tuple[str, ...], str]] = {
    "unbiased_teacher": (("ScoreThreshold",), "focal"),
    "mean_teacher": (("ScoreThreshold",), "cross_entropy"),
    "soft_teacher": (("SoftTeacher",), "cross_entropy"),
    "pseco": (("PseCo",), "focal"),
    "stac": (("ScoreThreshold", "PseudoBoxRegression"), "cross_entropy"),
}
PAPERS: Dict[str, Tuple[str, ...]] = {
    "acrst": ("TwoStageFilter", "CropBank"),
    "lsm": ("PIM", "SelfDistillation"),
    "ci_ssod": ("GradientReweighting", "GradientThresholding", "ClassRebalancingSampling"),
}


@pytest.mark.trains
@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("host", HOSTS)
def test_each_paper_on_each_host(squares: Path, tmp_path: Path, host: str, paper: str) -> None:
    names, loss = HOSTS[host]
    added = PAPERS[paper]
    if host == "stac":  # no teacher of today whose image-level activations could filter
        added = tuple(name for name in added if name != "TwoStageFilter")
    if any(METHOD_REGISTRY.get(name).selects_pseudo_labels for name in added):
        names = tuple(name for name in names if name != "ScoreThreshold")  # in its place
    cfg = method_cfg(squares, tmp_path, (*names, *added), 6)
    cfg.SSOD.ROI_CLS_LOSS = loss
    if host == "stac":
        cfg.SSOD.CROP_BANK.SELECTIVE_SUPERVISION = False  # all boxes regress there
        with_stored_labels(cfg, squares, tmp_path)
        stored = json.loads((tmp_path / "stored.json").read_text())
        for index, annotation in enumerate(stored["annotations"]):
            annotation["score"] = (0.15, 0.25)[index % 2]
        (tmp_path / "stored.json").write_text(json.dumps(stored))
    trainer = train(cfg)
    assert_sane(trainer)
    assert tuple(cfg.SSOD.METHODS) == (*names, *added)
    assert not inert(trainer)


def test_filter_by_an_online_teacher_is_refused_on_stac(squares: Path, tmp_path: Path) -> None:
    cfg = method_cfg(squares, tmp_path, PAPERS["acrst"], 3)
    with_stored_labels(cfg, squares, tmp_path)
    with pytest.raises(
        UserError, match="^TwoStageFilter needs the online teacher: .*PSEUDO_LABELS"
    ):
        build_methods(cfg)
