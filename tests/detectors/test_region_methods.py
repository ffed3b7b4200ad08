"""Every method on every region family that it claims to run on trains three steps and acts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Iterator, Tuple

import pytest
import torch

from region_rig import KEYS
from runs import FULL_STACK, METHOD_NAMES, method_cfg, state_of, train
from ssod.detectors.base import lacking
from ssod.detectors.rcnn.detector import RegionCNN
from ssod.detectors.registry import families
from ssod.methods import METHOD_REGISTRY

ADAPTERS = {kind.family: kind for kind in families() if issubclass(kind, RegionCNN)}
# The method's own tests cover Faster R-CNN.
NEW = ("Cascade R-CNN", "Mask R-CNN", "Cascade Mask R-CNN")


def cells() -> Iterator[Tuple[str, Tuple[str, ...]]]:
    for family in NEW:
        for name in METHOD_NAMES:
            kind = METHOD_REGISTRY.get(name)
            if not lacking(kind.needs, ADAPTERS[family].capabilities):
                yield family, (name,)
        yield family, FULL_STACK


def test_the_families_are_those_of_the_rig() -> None:
    assert set(ADAPTERS) == set(KEYS)


@pytest.mark.parametrize("family, names", cells())
def test_trains_three_steps(
    squares: Path, tmp_path: Path, family: str, names: Tuple[str, ...]
) -> None:
    cfg = method_cfg(squares, tmp_path / "run", names, 3)
    own_head = cfg.MODEL.ROI_HEADS.NAME  # of a method with a box head of its own
    cfg.merge_from_list(KEYS[family])
    if own_head != "StandardROIHeads":
        cfg.MODEL.ROI_HEADS.NAME = own_head
    trainer = train(cfg)
    assert type(trainer.core.detector) is ADAPTERS[family]
    losses = [name for name in trainer.storage.histories() if name.startswith("loss_")]
    assert all(math.isfinite(trainer.storage.history(name).latest()) for name in losses)
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())
    assert ("loss_mask_unlabeled" in losses) == ("Mask" in family)
    assert ("loss_cls_stage2_unlabeled" in losses) == ("Cascade" in family)
