"""Estimates a run's GPU-hours from published speeds."""

from __future__ import annotations

from detectron2.config import CfgNode

from ssod.methods import learns_from_unlabeled

# ResNet depth -> GPU-seconds an image, forward and backward, and at inference: Detectron2's model
# zoo on V100s (Faster R-CNN with FPN, 0.210 and 0.286 s for a step of 16 images on 8 GPUs; 0.038
# and 0.051 s). It has no ResNet-18, counted as ResNet-50.
_TRAIN = {18: 0.210 * 8 / 16, 50: 0.210 * 8 / 16, 101: 0.286 * 8 / 16}
_INFERENCE = {18: 0.038, 50: 0.038, 101: 0.051}
# Deformable DETR's paper: 325 V100-hours for 50 epochs of train2017, and 19 images a second.
# RT-DETR, whose authors print no training time, is counted as that.
_TRANSFORMERS = ("DeformableDETR", "RTDETRV2")
_TRANSFORMER = (325 * 3600 / (50 * 117_266), 1 / 19)
# What a mask head and a cascade add, from the zoo's Mask R-CNN (0.261 and 0.043 s) and Cascade Mask
# R-CNN (0.317 and 0.052 s).
_MASK = (0.051 * 8 / 16, 0.005)
_CASCADE = (0.056 * 8 / 16, 0.009)
# These see unlabelled images at half size too.
_HALF_SIZE = ("PIM", "MLC", "PseCo")


def gpu_hours(cfg: CfgNode, all_phases: bool = False) -> float:
    """V100-hours of training: the images that a step shows to student and teacher, times the
    seconds of each.

    Left out: evaluation, labelling beforehand, and what a method computes beyond whole images.
    Mixed precision and newer GPUs take a fraction of it.

    Args:
        all_phases: `ssod.tools.run_phases` trains a supervised model first, and one more in every
            phase.
    """
    solver, ssod = cfg.SOLVER, cfg.SSOD
    train, inference = _TRAIN[cfg.MODEL.RESNETS.DEPTH], _INFERENCE[cfg.MODEL.RESNETS.DEPTH]
    if cfg.MODEL.META_ARCHITECTURE in _TRANSFORMERS:
        train, inference = _TRANSFORMER
    if cfg.MODEL.MASK_ON:
        train, inference = train + _MASK[0], inference + _MASK[1]
    if cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads":
        train, inference = train + _CASCADE[0], inference + _CASCADE[1]
    steps = solver.MAX_ITER
    mutual = max(0, steps - ssod.BURN_IN_STEPS) if learns_from_unlabeled(cfg) else 0
    share = 0.5 if ssod.ALTERNATE_STREAMS else 1.0  # a step then has one of the two streams
    labelled_views = solver.IMS_PER_BATCH * (1 + ssod.LABELED_WEAK_VIEW)
    labelled = labelled_views * (steps - mutual + share * mutual)
    unlabelled = ssod.IMS_PER_BATCH_UNLABELED * share * mutual
    half_size = 0.25 * sum(name in ssod.METHODS for name in _HALF_SIZE)
    seconds = train * (labelled + unlabelled * (1 + half_size))
    if not ssod.PSEUDO_LABELS:
        seconds += inference * unlabelled
    if "BoundedDistillation" in ssod.METHODS:
        seconds += inference * (labelled + unlabelled)
    if all_phases:
        seconds = train * labelled_views * steps + ssod.MULTI_PHASE.PHASES * seconds
    return seconds / 3600
