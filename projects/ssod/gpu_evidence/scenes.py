"""Drawn photographs and configs for timing: no download, no weights, and a teacher that finds
something.

Coloured shapes on noise are learnt within a hundred steps, so that a short burn-in gives proposals,
detections and pseudo-labels in usual numbers. An untrained model gives none, and NMS and matching
would cost nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d

from ssod.data.loader import PREFETCH_FACTOR
from ssod.engine.trainer import SSODTrainer

# One hue a class. The detector has COCO's 80 classes, so that its last layers cost as much as on
# COCO.
DRAWN_CLASSES = 8
NUM_CLASSES = 80


@dataclass(frozen=True)
class Sizes:
    """The sizes of the timed runs.

    Attributes:
        height, width: of the images on disk. short_side: of what the detector sees.
        images: per set. batch: labelled images a step, and as many unlabelled ones.
        workers: of the loader. burn_in, warm_up, steps: optimiser steps.
        call_cost_batches: (images, side) of the square batches of the call-cost part.
        depth: of the ResNet. case_seconds: a case is ended after so many.
    """

    height: int
    width: int
    short_side: int
    images: int
    batch: int
    workers: int
    burn_in: int
    warm_up: int
    steps: int
    call_cost_batches: Tuple[Tuple[int, int], ...]
    depth: int
    case_seconds: float


# Small batches take as long as the launch of their kernels. Large ones show the cost of a pixel.
_BATCHES = ((1, 256), (1, 512), (1, 1024), (4, 1024), (8, 1024), (16, 1024))
FULL = Sizes(480, 640, 800, 96, 8, 12, 100, 3, 6, _BATCHES, 50, 75.0)
# For a trial of the whole command on a CPU.
TINY = Sizes(72, 96, 64, 8, 1, 0, 2, 1, 1, ((1, 64), (2, 96)), 18, 600.0)


def draw_set(folder: str, name: str, sizes: Sizes, seed: int) -> str:
    """Writes `<folder>/<name>/*.jpg` and a COCO file.

    Returns:
        The path of the COCO file; beside it stands `<name>_bare.json`, the same without
        annotations.
    """
    rng = np.random.default_rng(seed)
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for index in range(sizes.images):
        file_name = f"{index:04d}.jpg"
        image, found = _draw(rng, sizes)
        cv2.imwrite(os.path.join(folder, name, file_name), image)
        images.append(
            {"id": index + 1, "file_name": file_name, "height": sizes.height, "width": sizes.width}
        )
        for annotation in found:
            annotations.append({**annotation, "id": len(annotations) + 1, "image_id": index + 1})
    categories = [{"id": k + 1, "name": f"class_{k}"} for k in range(NUM_CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = os.path.join(folder, f"{name}.json")
    for target, value in (
        (path, content),
        (path.replace(".json", "_bare.json"), {**content, "annotations": []}),
    ):
        with open(target, "w") as file:
            json.dump(value, file)
    return path


def _draw(rng: np.random.Generator, sizes: Sizes) -> Tuple[np.ndarray, List[Dict[str, Any]]]:
    """A BGR image with 3 to 9 ellipses, and their COCO annotations without ids."""
    height, width = sizes.height, sizes.width
    coarse = rng.integers(60, 160, (height // 8, width // 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    annotations = []
    for _ in range(int(rng.integers(3, 10))):
        label = int(rng.integers(0, DRAWN_CLASSES))
        w, h = (int(v) for v in rng.integers(height // 10, height // 3, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        hue = np.uint8([[[label * 180 // DRAWN_CLASSES, 230, 230]]])  # type: ignore[arg-type]
        colour = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
        cv2.ellipse(image, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, colour, -1)
        annotations.append(
            {"bbox": [x, y, w, h], "category_id": label + 1, "area": w * h, "iscrowd": 0}
        )
    return image, annotations


def point_at(cfg: CfgNode, folder: str, sizes: Sizes, device: str) -> None:
    """Changes a config of a paper in place: drawn photographs, no weights, this batch, this
    size.
    """
    for name, file in (("labeled", "labeled.json"), ("unlabeled", "unlabeled_bare.json")):
        cfg.SSOD.DATASETS[f"drawn_{name}"] = CfgNode(
            {
                "FORMAT": "coco",
                "ANNOTATIONS": os.path.join(folder, file),
                "IMAGES": os.path.join(folder, name),
            }
        )
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED = ("drawn_labeled",), ("drawn_unlabeled",)
    cfg.DATASETS.VAL, cfg.DATASETS.TEST = (), ()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", device
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.RESNETS.DEPTH = sizes.depth
    if sizes.depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.STRIDE_IN_1X1 = 64, False
    cfg.INPUT.MIN_SIZE_TRAIN = (sizes.short_side,)
    cfg.INPUT.MAX_SIZE_TRAIN = 2 * sizes.short_side
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.SOLVER.IMS_PER_BATCH = cfg.SSOD.IMS_PER_BATCH_UNLABELED = sizes.batch
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS = "AdamW", 2e-4, ()
    cfg.SOLVER.WARMUP_ITERS = 10
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 5.0
    cfg.DATALOADER.NUM_WORKERS = sizes.workers
    # So many workers run further ahead than the default allows.
    cfg.SSOD.SNAPSHOT_DELAY = max(cfg.SSOD.SNAPSHOT_DELAY, sizes.workers * PREFETCH_FACTOR + 1)
    cfg.SSOD.VIS_PERIOD, cfg.TEST.EVAL_PERIOD, cfg.SEED = 0, 0, 1


def calibrate_frozen_norms(trainer: SSODTrainer) -> None:
    """Gives frozen batch norms the statistics of one batch, as pretrained weights would bring them.

    A randomly initialised ResNet with identity norms multiplies its activations from block to
    block.
    """

    def measure(layer: FrozenBatchNorm2d, inputs: Tuple[torch.Tensor, ...]) -> None:
        layer.running_mean.copy_(inputs[0].float().mean((0, 2, 3)))
        layer.running_var.copy_(inputs[0].float().var((0, 2, 3)))

    student = trainer.core.student
    layers = [m for m in student.modules() if isinstance(m, FrozenBatchNorm2d)]
    handles = [layer.register_forward_pre_hook(measure) for layer in layers]
    side = trainer.cfg.INPUT.MIN_SIZE_TRAIN[0]
    noise = torch.randint(0, 256, (2, 3, side // 8, side // 8), device=student.device)
    images = torch.nn.functional.interpolate(noise.float(), scale_factor=8, mode="bilinear")
    with torch.no_grad():
        student.backbone(student.preprocess_image([{"image": image} for image in images]).tensor)
    for handle in handles:
        handle.remove()
    trainer.core.teacher.load_state_dict(student.state_dict())


def burn_in(cfg: CfgNode, folder: str, steps: int) -> str:
    """Trains `cfg` on labelled images alone.

    Returns:
        A full checkpoint, for `SSOD.BURN_IN_CHECKPOINT`.
    """
    cfg = cfg.clone()
    cfg.SSOD.BURN_IN_STEPS = cfg.SOLVER.MAX_ITER = cfg.SOLVER.CHECKPOINT_PERIOD = steps
    cfg.OUTPUT_DIR = folder
    os.makedirs(folder, exist_ok=True)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=False)
    calibrate_frozen_norms(trainer)
    trainer.train()
    return os.path.join(folder, "model_final.pth")
