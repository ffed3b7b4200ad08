"""Config values that a user may write, and what must come of each. See `input_case.Row`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List

import torch

from input_case import Case, Change, Row

# Keys that turn a Faster R-CNN into a Cascade R-CNN.
CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
)


def opts(*pairs: str) -> Change:
    """KEY VALUE pairs on the command line."""
    return lambda case: case.opts.extend(pairs)


def number(key: str, value: str, *words: str) -> Row:
    """A value that is refused with the key, the value and further words."""
    return Row(f"{key} {value}", opts(key, value), refused=(f"{key} is {value}", *words))


def semi(*pairs: str) -> Change:
    """A semi-supervised run with KEY VALUE pairs."""

    def change(case: Case) -> None:
        case.learn_from_extra()
        case.opts.extend(pairs)

    return change


def yaml_text(text: str) -> Change:
    """A YAML file as it is written, `{root}` being the folder of the data."""
    return lambda case: case.raw.update(
        {"config.yaml": text.replace("{root}", str(case.root)).encode()}
    )


def same_set(key: str) -> Change:
    def change(case: Case) -> None:
        case.config["DATASETS"][key] = ["train"]

    return change


def train_images_again(case: Case) -> None:
    (case.root / "again.json").write_text(json.dumps(case.train))
    again = {"FORMAT": "coco", "ANNOTATIONS": case.at("again.json"), "IMAGES": case.at("train/")}
    case.config["SSOD"]["DATASETS"]["again"] = again
    case.config["DATASETS"]["VAL"] = ["again"]


def boxless(case: Case) -> None:
    case.val["annotations"] = []
    case.config["DATASETS"]["VAL"] = ["val"]


def weights(**tensors: Any) -> Change:
    """MODEL.WEIGHTS of these names and shapes, dots written as two underscores."""

    def change(case: Case) -> None:
        path = case.root / "weights.pth"
        state = {name.replace("__", "."): torch.zeros(shape) for name, shape in tensors.items()}
        torch.save(state, path)
        case.opts.extend(["MODEL.WEIGHTS", str(path)])

    return change


def partial_weights(case: Case) -> None:
    weights(foo__bar=(3,))(case)
    case.opts.extend(["SSOD.ALLOW_PARTIAL_WEIGHTS", "True"])


def output_is_a_file(case: Case) -> None:
    path = Path(case.root) / "a_file"
    path.write_text("")
    case.opts.extend(["OUTPUT_DIR", str(path)])


ROWS: List[Row] = [
    Row("steps 0", opts("SOLVER.MAX_ITER", "0"), refused=("SOLVER.MAX_ITER is 0", "use 1 or more")),
    number("SOLVER.MAX_ITER", "-5", "use 1 or more"),
    number("SOLVER.CHECKPOINT_PERIOD", "0", "use 1 or more"),
    number("SOLVER.CHECKPOINT_PERIOD", "-1", "use 1 or more"),
    number("SOLVER.BASE_LR", "-0.01", "above 0"),
    number("SOLVER.BASE_LR", "0.0", "above 0"),
    Row("lr 1e400", opts("SOLVER.BASE_LR", "1e400"), refused=("SOLVER.BASE_LR", "finite")),
    number("SOLVER.MOMENTUM", "1.0", "below 1"),
    number("SOLVER.WEIGHT_DECAY", "-0.1", "0 or more"),
    number("SOLVER.WARMUP_ITERS", "-1", "0 or more"),
    number("SOLVER.IMS_PER_BATCH", "0", "1 or more"),
    number("SOLVER.IMS_PER_BATCH", "-2", "1 or more"),
    number("SOLVER.GRADIENT_ACCUMULATION_STEPS", "0", "1 or more"),
    number("SOLVER.REFERENCE_WORLD_SIZE", "-8", "0 or more"),
    number("DATALOADER.NUM_WORKERS", "-1", "0 or more"),
    number("TEST.EVAL_PERIOD", "-1", "0 or more"),
    number("TEST.DETECTIONS_PER_IMAGE", "0", "1 or more"),
    number("INPUT.MAX_SIZE_TRAIN", "0", "1 or more"),
    number("MODEL.ROI_HEADS.NUM_CLASSES", "0", "1 or more"),
    number("MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.5", "from 0 to 1"),
    number("MODEL.ROI_HEADS.NMS_THRESH_TEST", "-0.5", "from 0 to 1"),
    number("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "0", "1 or more"),
    number("SSOD.EMA.DECAY", "1.0", "from 0 to below 1"),
    number("SSOD.EMA.DECAY", "1.5", "from 0 to below 1"),
    number("SSOD.EMA.DECAY", "-0.1", "from 0 to below 1"),
    number("SSOD.BURN_IN_STEPS", "-1", "0 or more"),
    number("SSOD.UNSUP_LOSS_WEIGHT", "-1.0", "0 or more"),
    number("SSOD.PSEUDO_SCORE_FLOOR", "1.0", "below 1"),
    number("SSOD.STRONG_AUGMENTATION.NOISE_SIGMA", "-1.0", "0 or more"),
    number("SEED", "99999999999", "up to"),
    number("SSOD.SOFT_TEACHER.JITTER", "-1.0", "0 or more"),
    Row(
        "panoptic online",
        semi("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2']"),
        refused=("MODEL.META_ARCHITECTURE PanopticFPN", "add PseudoBoxRegression"),
    ),
    Row("steps down", opts("SOLVER.STEPS", "(3, 2)"), refused=("SOLVER.STEPS", "larger")),
    Row(
        "steps as texts", opts("SOLVER.STEPS", "('a',)"), refused=("SOLVER.STEPS", "numbers", "'a'")
    ),
    Row(
        "means as texts", opts("MODEL.PIXEL_MEAN", "['a', 'b', 'c']"), refused=("PIXEL_MEAN", "'a'")
    ),
    Row("sizes ()", opts("INPUT.MIN_SIZE_TRAIN", "()"), refused=("MIN_SIZE_TRAIN is empty",)),
    Row("size 0", opts("INPUT.MIN_SIZE_TRAIN", "(0,)"), refused=("INPUT.MIN_SIZE_TRAIN is 0",)),
    Row("std 0", opts("MODEL.PIXEL_STD", "[0.0, 1.0, 1.0]"), refused=("MODEL.PIXEL_STD is 0",)),
    Row("one mean", opts("MODEL.PIXEL_MEAN", "[1.0]"), refused=("PIXEL_MEAN", "PIXEL_STD")),
    Row("mps", opts("MODEL.DEVICE", "mps"), refused=("MODEL.DEVICE is 'mps'", "cuda or cpu")),
    Row("gpu", opts("MODEL.DEVICE", "gpu"), refused=("MODEL.DEVICE is 'gpu'", "cuda or cpu")),
    Row("no device", opts("MODEL.DEVICE", "None"), refused=("MODEL.DEVICE is empty",)),
    Row("format", opts("INPUT.FORMAT", "RGBA"), refused=("INPUT.FORMAT is 'RGBA'", "BGR")),
    Row("flip", opts("INPUT.RANDOM_FLIP", "both"), refused=("INPUT.RANDOM_FLIP", "horizontal")),
    Row("optimizer", opts("SOLVER.OPTIMIZER", "Adam"), refused=("SOLVER.OPTIMIZER", "AdamW")),
    Row("scheduler", opts("SOLVER.LR_SCHEDULER_NAME", "x"), refused=("LR_SCHEDULER_NAME",)),
    Row("int for float", opts("SSOD.UNSUP_LOSS_WEIGHT", "2"), refused=("write 2.0",)),
    Row("float for int", opts("SOLVER.MAX_ITER", "5.0"), refused=("SOLVER.MAX_ITER", "write 5")),
    Row("one name", opts("DATASETS.TRAIN", "train"), refused=("DATASETS.TRAIN", "use a list")),
    Row("number as name", opts("DATASETS.TEST", "(1,)"), refused=("DATASETS.TEST names 1",)),
    Row("no training set", opts("DATASETS.TRAIN", "()"), refused=("DATASETS.TRAIN is empty",)),
    Row("unknown set", opts("DATASETS.TRAIN", "('trian',)"), refused=("'trian'", "train")),
    Row("NUL in a path", opts("OUTPUT_DIR", "a\0b"), refused=("OUTPUT_DIR is 'a\\x00b'", "NUL")),
    Row("several sizes", opts("TEST.AUG.ENABLED", "True"), refused=("TEST.AUG.ENABLED", "False")),
    Row(
        "precise norms",
        opts("TEST.PRECISE_BN.ENABLED", "True"),
        refused=("TEST.PRECISE_BN.ENABLED", "set it to False"),
    ),
    Row("proposals", opts("MODEL.LOAD_PROPOSALS", "True"), refused=("MODEL.LOAD_PROPOSALS", "RPN")),
    Row("pictures", opts("VIS_PERIOD", "20"), refused=("VIS_PERIOD is 20", "SSOD.VIS_PERIOD")),
    number("SSOD.TWO_STAGE_FILTER.WARMUP_STEPS", "-2", "use -1 or more (-1: SSOD.BURN_IN_STEPS)"),
    Row("unknown key", opts("SOLVER.LR", "0.1"), refused=("no key SOLVER.LR", "did you mean")),
    Row(
        "relative crop of 2",
        opts("INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[2.0, 2.0]"),
        refused=("INPUT.CROP.SIZE", "shares"),
    ),
    Row(
        "RPN thresholds",
        opts("MODEL.RPN.IOU_THRESHOLDS", "[0.5]"),
        refused=("MODEL.RPN.IOU_THRESHOLDS", "IOU_LABELS"),
    ),
    Row(
        "two regression weights",
        opts("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "(1.0, 1.0)"),
        refused=("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "four"),
    ),
    Row(
        "depth 20",
        opts("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", "20"),
        refused=("MODEL.RESNETS.DEPTH is 20", "50"),
    ),
    Row(
        "no level p7",
        opts("MODEL.ROI_HEADS.IN_FEATURES", "['p7']"),
        refused=("MODEL.ROI_HEADS.IN_FEATURES", "'p7'", "p2, p3, p4, p5, p6"),
    ),
    Row("no such norm", opts("MODEL.RESNETS.NORM", "XX"), refused=("MODEL.RESNETS.NORM is 'XX'",)),
    Row("no such head", opts("MODEL.RPN.HEAD_NAME", "x"), refused=("'x'", "RPN_HEAD")),
    Row(
        "cascade online",
        semi("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        refused=("CascadeROIHeads", "CLS_AGNOSTIC_BBOX_REG True"),
    ),
    Row(
        "cascade of unequal lists",
        opts(*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.5, 0.6)"),
        refused=("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "2 and 3", "one a stage"),
    ),
    Row(
        "cascade of another first IoU",
        opts(*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.4, 0.6, 0.7)"),
        refused=("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "0.4", "MODEL.ROI_HEADS.IOU_THRESHOLDS"),
    ),
    Row("masks", semi("MODEL.MASK_ON", "True"), refused=("MODEL.MASK_ON",)),
    # A run that trains on no unlabelled image says so.
    Row(
        "burn-in to the end",
        semi("SSOD.BURN_IN_STEPS", "5"),
        says=("No unlabelled image will be used", "SSOD.BURN_IN_STEPS 5"),
    ),
    Row(
        "unlabelled set without methods",
        semi("SSOD.METHODS", "()"),
        says=("No unlabelled image will be used", "SSOD.METHODS is empty"),
    ),
    Row(
        "methods that use labels alone",
        semi("SSOD.METHODS", "('RepeatFactorSampling',)"),
        says=("No unlabelled image will be used", "RepeatFactorSampling"),
    ),
    Row(
        "nothing selects",
        semi("SSOD.METHODS", "('PseudoBoxRegression',)"),
        refused=("chooses which pseudo-labels", "ScoreThreshold"),
    ),
    Row(
        "a method twice", semi("SSOD.METHODS", "('ScoreThreshold',) * 2"), refused=("SSOD.METHODS",)
    ),
    Row(
        "no such method",
        semi("SSOD.METHODS", "('Scores',)"),
        refused=("'Scores'", "ScoreThreshold"),
    ),
    Row("methods without a set", semi("DATASETS.UNLABELED", "()"), refused=("DATASETS.UNLABELED",)),
    Row("test = train", same_set("TEST"), says=("DATASETS.TEST train itself is trained on",)),
    Row("val = train", same_set("VAL"), says=("DATASETS.VAL train itself is trained on",)),
    Row(
        "images of train in another file",
        train_images_again,
        says=("4 of 4 images of DATASETS.VAL again", "are trained on"),
    ),
    Row("val without boxes", boxless, says=("DATASETS.VAL val has no boxes", "teacher_best.pth")),
    # Files.
    Row(
        "duplicate key",
        yaml_text("SOLVER:\n  MAX_ITER: 5\n  BASE_LR: 0.1\n  MAX_ITER: 6\n"),
        refused=("config.yaml", "SOLVER.MAX_ITER twice", "lines 2 and 4"),
    ),
    Row(
        "duplicate section",
        yaml_text("SOLVER: {MAX_ITER: 5}\nSEED: 1\nSOLVER: {BASE_LR: 0.1}\n"),
        refused=("SOLVER twice", "lines 1 and 3"),
    ),
    Row(
        "key 7",
        yaml_text("SSOD:\n  DATASETS:\n    7: {FORMAT: folder}\n"),
        refused=("config.yaml", "SSOD.DATASETS.7 in line 3", "int", "quotes"),
    ),
    Row("empty value", yaml_text("SOLVER:\n  BASE_LR:\n"), refused=("SOLVER.BASE_LR is empty",)),
    Row("tab", yaml_text("SOLVER:\n\tBASE_LR: 0.1\n"), refused=("config.yaml is no valid YAML",)),
    Row("file as OUTPUT_DIR", output_is_a_file, refused=("OUTPUT_DIR", "a_file", "cannot be made")),
    Row("no weights", opts("MODEL.WEIGHTS", "no.pth"), refused=("no.pth does not exist",)),
    Row(
        "foreign weights",
        weights(foo__bar=(3,), foo__baz=(4,)),
        refused=("weights.pth", "0 of the backbone's", "(0 %)", "SSOD.ALLOW_PARTIAL_WEIGHTS"),
    ),
    Row(
        "weights of other shapes",
        weights(
            backbone__bottom_up__stem__weight=(3, 3), backbone__bottom_up__stem__norm__bias=(2,)
        ),
        refused=("weights.pth", "another architecture", "SSOD.ALLOW_PARTIAL_WEIGHTS"),
    ),
    Row("foreign weights, wanted", partial_weights, says=("weights.pth",)),
]
