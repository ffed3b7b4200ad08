"""A tiny detector and a tiny dataset that every test can afford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.structures import Boxes, Instances

from ssod.config import add_ssod_config
from ssod.structures import Geometry, Sample, SampleRef, View, make_targets

CLASSES = ("red", "green", "blue")
SIZE = 64


class TinyBottomUp(Backbone):
    """res2..res5 of one strided convolution each, 32 channels, with any norm."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.stem = Conv2d(
            3, 32, 3, stride=2, padding=1, norm=get_norm(norm, 32), activation=F.relu
        )
        self.stages = torch.nn.ModuleList(
            Conv2d(32, 32, 3, stride=2, padding=1, norm=get_norm(norm, 32), activation=F.relu)
            for _ in range(4)
        )
        self._out_features = ["res2", "res3", "res4", "res5"]
        self._out_feature_channels = dict.fromkeys(self._out_features, 32)
        self._out_feature_strides = {f"res{i}": 2**i for i in range(2, 6)}

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        x, features = self.stem(x), {}
        for name, stage in zip(self._out_features, self.stages):
            x = features[name] = stage(x)
        return features


@BACKBONE_REGISTRY.register()
def build_tiny_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    return FPN(
        TinyBottomUp(cfg.MODEL.RESNETS.NORM),
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        top_block=LastLevelMaxPool(),
    )


def make_image(rng: np.random.Generator) -> tuple[np.ndarray, List[Dict[str, Any]]]:
    """Squares of the three pure colours on noise: a BGR image and COCO annotations without ids."""
    image = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    annotations = []
    for _ in range(int(rng.integers(1, 4))):
        label, size = int(rng.integers(0, 3)), int(rng.integers(12, 28))
        x, y = (int(v) for v in rng.integers(0, SIZE - size, 2))
        image[y : y + size, x : x + size] = np.eye(3)[2 - label] * 255
        annotations.append(
            {
                "bbox": [x, y, size, size],
                "category_id": label + 1,
                "area": size * size,
                "iscrowd": 0,
            }
        )
    return image, annotations


def write_coco(root: Path, name: str, count: int, seed: int, masks: bool = False) -> None:
    """Writes root/name/*.png, root/name.json and root/name_empty.json (the same without
    annotations).

    Args:
        masks: annotations also have a polygon, which is the whole square.
    """
    rng = np.random.default_rng(seed)
    (root / name).mkdir(parents=True)
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for index in range(count):
        image, found = make_image(rng)
        cv2.imwrite(str(root / name / f"{index:03d}.png"), image)
        images.append(
            {"id": index + 1, "file_name": f"{index:03d}.png", "height": SIZE, "width": SIZE}
        )
        for annotation in found:
            if masks:
                x, y, w, h = annotation["bbox"]
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append({**annotation, "image_id": index + 1, "id": len(annotations) + 1})
    categories = [{"id": k + 1, "name": c} for k, c in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{name}.json").write_text(json.dumps(content))
    (root / f"{name}_empty.json").write_text(json.dumps({**content, "annotations": []}))


def tiny_cfg(norm: str = "GN") -> CfgNode:
    """A Faster R-CNN of 32 channels with a four-convolution backbone for 64 x 64 images and three
    classes, without data.
    """
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "VERSION", 2, "SEED", 3),
            *("MODEL.PIXEL_STD", [58.0, 58.0, 58.0]),
            *("MODEL.BACKBONE.NAME", "build_tiny_fpn_backbone", "MODEL.RESNETS.NORM", norm),
            *(
                "MODEL.FPN.IN_FEATURES",
                ["res2", "res3", "res4", "res5"],
                "MODEL.FPN.OUT_CHANNELS",
                32,
            ),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [24], [32], [48]]),
            *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
            *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 40),
            *("MODEL.RPN.PRE_NMS_TOPK_TEST", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", 3),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4),
            *("INPUT.MIN_SIZE_TRAIN", (SIZE,), "INPUT.MAX_SIZE_TRAIN", SIZE),
            *("INPUT.MIN_SIZE_TEST", SIZE, "INPUT.MAX_SIZE_TEST", SIZE),
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.01),
            *("SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0),
            *("SSOD.IMS_PER_BATCH_UNLABELED", 2, "SSOD.BURN_IN_STEPS", 2, "SSOD.EMA.DECAY", 0.9),
        ]
    )
    return cfg


def with_squares(cfg: CfgNode, root: Path, output: Path, methods: tuple[str, ...] = ()) -> CfgNode:
    """Points a tiny config at the squares; `methods` makes it semi-supervised."""
    for name in ("labeled", "unlabeled", "test"):
        annotations = "unlabeled_empty" if name == "unlabeled" else name
        cfg.SSOD.DATASETS[f"squares_{name}"] = CfgNode(
            {
                "FORMAT": "coco",
                "ANNOTATIONS": str(root / f"{annotations}.json"),
                "IMAGES": str(root / name),
            }
        )
    cfg.DATASETS.TRAIN = ("squares_labeled",)
    cfg.DATASETS.TEST = ()
    cfg.SSOD.METHODS = methods
    cfg.DATASETS.UNLABELED = ("squares_unlabeled",) if methods else ()
    cfg.OUTPUT_DIR = str(output)
    return cfg


def make_sample(index: int, labeled: bool, size: tuple[int, int] = (SIZE, SIZE)) -> Sample:
    """One in-memory sample; the strong view is the weak one, darker."""
    image, annotations = make_image(np.random.default_rng(index))
    image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    weak = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    instances: Optional[Instances] = None
    if labeled:
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        scale = torch.tensor([size[1], size[0]] * 2) / SIZE
        instances = Instances(size)
        instances.gt_boxes = Boxes(boxes * scale)
        instances.gt_classes = torch.tensor([a["category_id"] - 1 for a in annotations])
    return Sample(
        ref=SampleRef("labeled" if labeled else "unlabeled", index, index),
        file_name=f"{index}.png",
        image_id=index,
        weak=weak,
        strong=weak // 2,
        geometry=Geometry(np.eye(2, 3), size),
        instances=instances,
    )


def labels(index: int, count: Any = None, size: Any = (64, 64), **weights: float) -> Instances:
    """The targets of `make_sample`, the first `count` of them; `weights` by column."""
    found = make_sample(index, True, size).instances
    assert found is not None
    found = found[:count]
    columns = {name: torch.full((len(found),), value) for name, value in weights.items()}
    return make_targets(size, found.gt_boxes.tensor, found.gt_classes, weights=columns)


def view(targets: List[Instances]) -> View:
    """These targets on images of their own sizes."""
    images = [make_sample(i, True, t.image_size).weak for i, t in enumerate(targets)]
    return View(images, targets)
