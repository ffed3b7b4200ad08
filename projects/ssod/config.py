"""The core configuration keys. Each method adds its own keys under `SSOD.<METHOD>` (see `Method.add_config`)."""

from __future__ import annotations

from ssod import compat

compat.apply()

from detectron2.config import CfgNode as CN  # noqa: E402


def add_ssod_config(cfg: CN) -> None:
    """Adds every key of this project to a Detectron2 config, in place."""
    from ssod.methods import add_method_configs

    # Unlabelled images; entries of `DATASETS.TRAIN` are the labelled ones.
    cfg.DATASETS.UNLABELED = ()
    # Evaluated during training and used to choose the best teacher. Empty: `DATASETS.TEST` plays that part.
    cfg.DATASETS.VAL = ()

    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW"
    # Micro-batches per optimiser step. `IMS_PER_BATCH` stays the batch of one optimiser step.
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 1
    cfg.SOLVER.AMP.DTYPE = "float16"  # or "bfloat16"

    cfg.SSOD = CN()
    # Names from METHOD_REGISTRY, applied in this order. Empty: supervised training.
    cfg.SSOD.METHODS = ()
    # Steps on labelled images alone, before the teacher starts to label.
    cfg.SSOD.BURN_IN_STEPS = 2000
    # A full checkpoint (of any run with the same model) to branch from: weights, teacher, optimiser and step.
    cfg.SSOD.BURN_IN_CHECKPOINT = ""
    # Unlabelled images per optimiser step, over all ranks.
    cfg.SSOD.IMS_PER_BATCH_UNLABELED = 16
    cfg.SSOD.UNSUP_LOSS_WEIGHT = 4.0
    # Labelled images are seen in their weak view too.
    cfg.SSOD.LABELED_WEAK_VIEW = True
    # Teacher detections below this score are not even candidates.
    cfg.SSOD.PSEUDO_SCORE_FLOOR = 0.05
    # RoI classification: "cross_entropy", or "focal" with FOCAL_GAMMA.
    cfg.SSOD.ROI_CLS_LOSS = "cross_entropy"
    cfg.SSOD.FOCAL_GAMMA = 1.5
    # Steps between the publication of a snapshot (CropBank, repeat factors) and its use by the loader.
    # At least workers x prefetch + 1, so that every worker layout and every resumed run sees it at the same step.
    cfg.SSOD.SNAPSHOT_DELAY = 16
    # Pictures of pseudo-labels go to TensorBoard every so many steps; 0 turns them off.
    cfg.SSOD.VIS_PERIOD = 500

    cfg.SSOD.EMA = CN()
    cfg.SSOD.EMA.DECAY = 0.9996
    # The teacher becomes a copy of the student when burn-in ends; False keeps its average instead.
    cfg.SSOD.EMA.COPY_AFTER_BURN_IN = True

    # The strong view: colour jitter, grayscale, blur and erasing as Unbiased Teacher has them, then Gaussian noise.
    cfg.SSOD.STRONG_AUGMENTATION = CN()
    cfg.SSOD.STRONG_AUGMENTATION.ENABLED = True
    cfg.SSOD.STRONG_AUGMENTATION.NOISE_SIGMA = 5.0  # of 255; 0 for Unbiased Teacher

    # Datasets declared here need no code: NAME: {FORMAT: coco|voc|folder, ...}, see datasets/README.md.
    cfg.SSOD.DATASETS = CN(new_allowed=True)

    add_method_configs(cfg)
