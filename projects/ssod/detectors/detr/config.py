"""The config keys of Deformable DETR and RT-DETR."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_deformable_detr_config(cfg: CfgNode) -> None:
    """Adds `MODEL.DEFORMABLE_DETR`, in place, with the published settings."""
    # MODEL.META_ARCHITECTURE "DeformableDETR" (Zhu et al., ICLR 2021).
    node = cfg.MODEL.DEFORMABLE_DETR = CfgNode()
    node.NUM_CLASSES = 80
    # Outputs of the backbone, fine to coarse. Levels beyond them are made by strided convolutions.
    node.IN_FEATURES = ("res3", "res4", "res5")
    node.NUM_FEATURE_LEVELS = 4
    _add_transformer(node)
    node.ENC_LAYERS = 6
    node.ENC_POINTS = 4
    node.DROPOUT = 0.1
    # Each decoder layer refines the boxes of the one before it.
    node.WITH_BOX_REFINE = False
    # The encoder proposes the queries; needs WITH_BOX_REFINE.
    node.TWO_STAGE = False
    node.CLASS_WEIGHT = 2.0
    node.FOCAL_ALPHA = 0.25
    node.SCORE_THRESH_TEST = 0.0


def add_rt_detr_config(cfg: CfgNode) -> None:
    """Adds `MODEL.RT_DETR`, in place, with the published settings."""
    # MODEL.META_ARCHITECTURE "RTDETRV2" (Lv et al., 2024).
    node = cfg.MODEL.RT_DETR = CfgNode()
    node.NUM_CLASSES = 80
    node.IN_FEATURES = ("res3", "res4", "res5")
    # The model squashes every image to (height, width), as the published one is trained. (): images
    # keep their size and are padded, which the model does not know: its boxes are relative to the
    # padded size.
    node.INPUT_SIZE = ()
    _add_transformer(node)
    node.ENC_LAYERS = 1
    node.DROPOUT = 0.0
    # Width of the encoder's convolutional blocks, as a share of HIDDEN_DIM.
    node.HIDDEN_EXPANSION = 1.0
    # Of the encoder: "BN", "SyncBN", "FrozenBN", "GN", as in Detectron2.
    node.NORM = "BN"
    # Queries that start at labels with noise; 0 for none.
    node.NUM_DENOISING = 100
    node.LABEL_NOISE = 0.5
    node.BOX_NOISE = 1.0
    node.CLASS_WEIGHT = 1.0
    node.FOCAL_ALPHA = 0.75  # of the varifocal loss
    node.SCORE_THRESH_TEST = 0.0


def _add_transformer(node: CfgNode) -> None:
    node.HIDDEN_DIM = 256
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 1024
    node.DEC_LAYERS = 6
    node.DEC_POINTS = 4
    node.NUM_OBJECT_QUERIES = 300
    # Weights in the losses; CLASS_WEIGHT stands beside them.
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    # Costs of the bipartite matching.
    node.CLASS_COST = 2.0
    node.L1_COST = 5.0
    node.GIOU_COST = 2.0
