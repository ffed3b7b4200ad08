"""Detectron2's two-stage detectors, step by step."""

from ssod.detectors.rcnn.detector import FasterRCNN

__all__ = ["FasterRCNN"]
