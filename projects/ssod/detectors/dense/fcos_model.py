"""The meta-architecture FCOS, by name and from a config."""

from __future__ import annotations

from typing import Any, Dict, List

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.config import CLASS_KEYS
from ssod.detectors.dense.group_norm import allow_group_norm


def add_fcos_config(cfg: CfgNode) -> None:
    """Adds `MODEL.FCOS`, in place, with Detectron2's values for COCO."""
    node = cfg.MODEL.FCOS = CfgNode()
    node.NUM_CLASSES = 80
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    node.NUM_CONVS = 4
    node.NORM = "GN"  # of the head: "", "GN", "BN", ...
    node.PRIOR_PROB = 0.01
    node.CENTER_SAMPLING_RADIUS = 1.5  # in strides; locations further from the centre are negative
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    node.SCORE_THRESH_TEST = 0.2
    node.TOPK_CANDIDATES_TEST = 1000
    node.NMS_THRESH_TEST = 0.6


allow_group_norm()
CLASS_KEYS["FCOS"] = "MODEL.FCOS.NUM_CLASSES"


class ConfigurableFCOS(FCOS):
    """Detectron2's FCOS, built from `MODEL.FCOS`; its weights are those of the plain class.

    It also trains on images without labels, where Detectron2's fails.
    """

    @configurable
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        inputs = [shapes[name] for name in node.IN_FEATURES]
        head = FCOSHead(
            input_shape=inputs,
            num_classes=node.NUM_CLASSES,
            conv_dims=[inputs[0].channels] * node.NUM_CONVS,
            prior_prob=node.PRIOR_PROB,
            norm=node.NORM,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": list(node.IN_FEATURES),
            "box2box_transform": Box2BoxTransformLinear(normalize_by_size=True),
            "num_classes": node.NUM_CLASSES,
            "center_sampling_radius": node.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def label_anchors(self, anchors: List[Boxes], gt_instances: List[Instances]) -> Any:
        """Detectron2's losses. An image without labels gets one label of class K far outside."""
        return super().label_anchors(anchors, [self._some(g) for g in gt_instances])

    def _some(self, labels: Instances) -> Instances:
        if len(labels):
            return labels
        boxes: Tensor = labels.gt_boxes.tensor.new_full((1, 4), -1e6)
        boxes[:, 2:] += 1.0
        classes = labels.gt_classes.new_full((1,), self.num_classes)
        return Instances(labels.image_size, gt_boxes=Boxes(boxes), gt_classes=classes)


if "FCOS" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY._do_register("FCOS", ConfigurableFCOS)
