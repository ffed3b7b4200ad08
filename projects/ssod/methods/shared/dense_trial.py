"""The tests' detector for methods that need dense predictions."""

from __future__ import annotations

from detectron2.config import CfgNode


def use_retinanet(cfg: CfgNode, score: float) -> None:
    """Turns a Faster R-CNN's config into a small RetinaNet's, in place; see `Method.trial_config`.

    Args:
        score: what it gives every anchor before training.
    """
    node = cfg.MODEL.RETINANET
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    node.NUM_CLASSES, node.NUM_CONVS = cfg.MODEL.ROI_HEADS.NUM_CLASSES, 1
    node.IN_FEATURES, node.PRIOR_PROB = list(cfg.MODEL.RPN.IN_FEATURES), score
