"""A meta-architecture of a user: nothing is known of it but its eval and training forward."""

from __future__ import annotations

from typing import Any, Dict, List

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from torch import nn


@META_ARCH_REGISTRY.register()
class OwnDetector(nn.Module):
    """Hides a RetinaNet; it has no `device`, no `backbone`, no `loss_normalizer`."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.inner = RetinaNet(cfg)

    def forward(self, inputs: List[Dict[str, Any]]) -> Any:
        return self.inner(inputs)


OWN = [
    *("MODEL.META_ARCHITECTURE", "OwnDetector", "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
    *("MODEL.RETINANET.NUM_CONVS", 1),
]
