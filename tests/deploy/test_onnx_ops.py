"""Suppression inside of an ONNX file gives what torchvision gives in PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms as expected_nms

from deploy_rig import boxes_of
from ssod.deploy.onnx_ops import batched_nms

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


class Suppress(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        return batched_nms(boxes, scores, groups, 0.5)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("onnx") / "nms.onnx"
    names = ["boxes", "scores", "groups"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Suppress().eval(),
            boxes_of(20),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["kept"],
            dynamic_axes={name: {0: "n"} for name in [*names, "kept"]},
        )
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


# 1,000 is where torchvision stops to move the groups apart.
@pytest.mark.parametrize("count", [0, 1, 50, 1000, 1001])
def test_suppression(session: Any, count: int) -> None:
    boxes, scores, groups = boxes_of(count)
    names = {"boxes": boxes, "scores": scores, "groups": groups}
    found = session.run(None, {name: value.numpy() for name, value in names.items()})[0]
    expected = expected_nms(boxes, scores, groups, 0.5)
    assert found.tolist() == expected.tolist()
    assert torch.equal(batched_nms(boxes, scores, groups, 0.5), expected)
