"""The views of PUDet's configs: colours change on wild images only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssod.data.augmentation import StrongAugmentation
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.mapper import TwoViewMapper
from ssod.structures import SampleRef
from tiny import tiny_cfg, with_squares


@pytest.mark.parametrize("labeled", [True, False])
def test_labelled_images_keep_their_weak_view(squares: Path, tmp_path: Path, labeled: bool) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path, ("ScoreThreshold",))
    cfg.SSOD.STRONG_AUGMENTATION.LABELED = labeled
    mapper = TwoViewMapper.from_config(cfg, seed=0)
    sample = mapper(load_labeled(cfg)[0], SampleRef("labeled", 0, 0))
    assert torch.equal(sample.weak, sample.strong) != labeled
    wild = mapper(load_unlabeled(cfg)[0], SampleRef("unlabeled", 0, 0))
    assert not torch.equal(wild.weak, wild.strong)


def test_colour_alone_neither_blurs_nor_erases() -> None:
    """Every pixel's new colour is a function of its old one, which no blur, noise or erasing is."""
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (8, 3), dtype=np.uint8)
    index = rng.integers(0, 8, (32, 32))
    changed = 0
    for seed in range(20):
        out = StrongAugmentation(5.0, color_only=True)(palette[index], np.random.default_rng(seed))
        for colour in range(8):
            assert len(np.unique(out[index == colour], axis=0)) == 1
        changed += int(not np.array_equal(out, palette[index]))
    assert changed > 10
