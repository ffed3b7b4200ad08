"""Evaluates a detector with scores that an ImageNet backbone has calibrated (DeFRCN's prototypical
calibration block).

ssod calibrate --config-file ci_ssod/defrcn_split1.yaml --weights \\
    output/ci_ssod/defrcn_split1 \\
    --imagenet-config ci_ssod/defrcn_base_split1.yaml [--num-gpus N] [KEY VALUE ...]

Each minority class has a prototype: the mean feature of its labelled boxes (DATASETS.TRAIN) in an
ImageNet backbone. The score of a detection of such a class becomes ALPHA * score + (1 - ALPHA) *
cosine to the prototype. The backbone is that of --imagenet-config with its MODEL.WEIGHTS, or its
timm weights: any config whose training starts from ImageNet. Its own detector is not used.
Results go to OUTPUT_DIR/calibrated.json, without and with calibration.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any, Dict, List, Optional

from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.tools.pseudo_label import add_launch_arguments, launch_from


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ssod.data.catalog import load_labeled
    from ssod.data.classes import check_classes
    from ssod.engine.checkpoint import SSODCheckpointer
    from ssod.engine.loading import build_detector, load_detector
    from ssod.evaluation import evaluate
    from ssod.methods.defrcn.calibration import (
        CalibratedDetector,
        ImageFeatures,
        labeled_prototypes,
    )
    from ssod.utils.atomic import write_atomically

    setup_logger(name="ssod", abbrev_name="ssod", distributed_rank=comm.get_rank())
    cfg = load_config(args.config_file, split_opts(args.opts))
    classes = check_classes(cfg)
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name a dataset to evaluate on.")
    minority = minority_classes(cfg, classes)
    model = load_detector(cfg, args.weights, None)
    other = load_config(args.imagenet_config)
    other.MODEL.DEVICE = cfg.MODEL.DEVICE
    teacher = build_detector(other)
    if other.MODEL.WEIGHTS:
        SSODCheckpointer(teacher).load(other.MODEL.WEIGHTS, checkpointables=[])
    elif not other.MODEL.TIMM.PRETRAINED and not other.MODEL.TIMM.WEIGHTS_PACKAGE:
        raise UserError(
            f"{args.imagenet_config} has no MODEL.WEIGHTS: give --imagenet-config a config whose backbone has ImageNet weights."
        )
    sizes = (other.INPUT.MIN_SIZE_TEST, other.INPUT.MAX_SIZE_TEST)
    extract = ImageFeatures(teacher, other.INPUT.FORMAT, sizes)
    prototypes, known = labeled_prototypes(extract, load_labeled(cfg), len(classes))
    calibrated = CalibratedDetector(
        model, extract, prototypes, known & minority.to(known.device), args.alpha, args.lowest
    )
    found: Dict[str, Any] = {}
    for name, detector in (("plain", model), ("calibrated", calibrated)):
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", name)
        found[name] = evaluate(cfg, detector, list(cfg.DATASETS.TEST), folder)
    if comm.is_main_process():
        path = os.path.join(cfg.OUTPUT_DIR, "calibrated.json")
        write_atomically(path, lambda file: file.write(json.dumps(found, indent=1).encode()))
        for name, results in found.items():
            for dataset, tasks in results.items():
                shown = {k: v for k, v in tasks["bbox"].items() if k in ("AP", "AP50")}
                shown.update({k: v for k, v in tasks["bbox"].items() if k.endswith("ority")})
                numbers = ", ".join(f"{key} {value:.2f}" for key, value in shown.items())
                print(f"{name}, {dataset}: {numbers}")
        print(f"Wrote {path}")


def minority_classes(cfg: Any, classes: List[str]) -> Any:
    """(K,) bool: the classes whose scores are calibrated, from the labelled set that GROUPS of the
    test set names.
    """
    import torch

    from ssod.evaluation.groups import read_groups
    from ssod.methods.defrcn.method import MINORITY

    declared = cfg.SSOD.DATASETS.get(cfg.DATASETS.TEST[0], {})
    groups = read_groups(declared.GROUPS, classes) if declared.get("GROUPS") else {}
    if MINORITY not in groups:
        raise UserError(
            f"{cfg.DATASETS.TEST[0]} does not say which classes are the minority: set its GROUPS to a labelled set that "
            "ssod.tools.make_splits --minority has made."
        )
    mask = torch.zeros(len(classes), dtype=torch.bool)
    mask[list(groups[MINORITY])] = True
    return mask


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="of the detector, or its run's OUTPUT_DIR"
    )
    parser.add_argument(
        "--imagenet-config", required=True, metavar="FILE", help="of the backbone of the prototypes"
    )
    parser.add_argument("--alpha", type=float, default=0.5, help="part of the detector's score")
    parser.add_argument("--lowest", type=float, default=0.05, help="scores up to it stay")
    add_launch_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    if not 0.0 <= args.alpha <= 1.0:
        raise UserError(f"--alpha {args.alpha}: use a part from 0 to 1.")
    launch_from(work, args)


if __name__ == "__main__":
    run_cli(main)
