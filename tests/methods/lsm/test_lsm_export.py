"""The deployed model has neither PIM's weights nor its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis

from runs import method_cfg, train
from ssod.deploy.plain import export
from tiny import make_image

pytestmark = pytest.mark.trains


class Detect(torch.nn.Module):
    """Tensors in and out, as tracing wants it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        found = self.model.inference([{"image": image}], do_postprocess=False)[0]
        return found.pred_boxes.tensor, found.scores


def flops(model: torch.nn.Module, image: np.ndarray) -> int:
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype("float32"))
    counted: Any = FlopCountAnalysis(Detect(model), pixels)
    return int(counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def test_exported_model_is_plain_detectron2(squares: Path, tmp_path: Path) -> None:
    cfg = method_cfg(squares, tmp_path / "run", ("PIM", "SelfDistillation"), 3)
    trainer = train(cfg)
    assert trainer.core.methods["PIM"].classifier.weight.numel() == 4 * 32
    paths = export(cfg, str(tmp_path / "run" / "teacher_final.pth"), str(tmp_path / "out"))
    plain = get_cfg()
    plain.merge_from_file(paths[0])
    model = build_model(plain)
    weights = torch.load(paths[1], weights_only=True)["model"]
    assert weights.keys() == model.state_dict().keys()
    model.load_state_dict(weights)
    image, _ = make_image(np.random.default_rng(5))
    count = flops(model, image)
    # The teacher in training does nothing more either: as the same weights find the same proposals,
    # all counts are equal.
    assert count > 1e5 and flops(trainer.core.teacher, image) == count
