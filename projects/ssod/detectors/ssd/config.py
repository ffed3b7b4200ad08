"""The config keys of SSD."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_ssd_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SSD`, in place, with torchvision's values."""
    # MODEL.META_ARCHITECTURE "SSD" (Liu et al., ECCV 2016).
    node = cfg.MODEL.SSD = CfgNode()
    node.NUM_CLASSES = 80
    # A model of torchvision, "ssd300_vgg16" or "ssdlite320_mobilenet_v3_large", or "": the heads on
    # the outputs IN_FEATURES of MODEL.BACKBONE, fine to coarse.
    node.NAME = "ssd300_vgg16"
    # The next four keys are for NAME "" alone; models of torchvision have their own values.
    node.IN_FEATURES = ("p3", "p4", "p5", "p6")
    # Every image is squashed to SIZE x SIZE pixels.
    node.SIZE = 300
    # A list a level; each ratio stands for itself and its inverse. Two squares are always there.
    node.ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2,))
    # Sides of the boxes of the first and the last level, as shares of the image's.
    node.SCALES = (0.15, 0.9)
    node.IOU_THRESHOLD = 0.5
    # At most (1 - f) / f background boxes for each foreground box, those with the highest loss.
    node.POSITIVE_FRACTION = 0.25
    node.SCORE_THRESH_TEST = 0.01
    node.NMS_THRESH_TEST = 0.45
    node.TOPK_CANDIDATES_TEST = 400
