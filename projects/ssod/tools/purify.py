"""Chooses, from a folder of unsorted images, those that show what the labelled images show (PUDet).

ssod purify --config-file X.yaml --wild FOLDER --prior 0.1 --keep N --output DIR
    [KEY VALUE ...]
ssod purify --config-file X.yaml --wild FOLDER --random --keep N --output DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional

from ssod.cluster.jobs import (
    add_cluster_arguments,
    cluster_from,
    run_jobs,
    without_cluster_arguments,
)
from ssod.engine.setup import run_cli, split_opts
from ssod.purification.run import purify
from ssod.purification.training import TrainingOptions
from ssod.tools.pseudo_label import add_launch_arguments, launch_from


def build_parser() -> argparse.ArgumentParser:
    default = TrainingOptions(prior=0.5)
    parser = argparse.ArgumentParser(
        prog="ssod purify",
        description="Train a positive-unlabelled classifier on the backbone of the detector in MODEL.WEIGHTS, labelled images "
        "(DATASETS.TRAIN) against a folder of wild ones; score every wild image and keep the best. The same command "
        "again goes on after an interruption; another --keep reuses the scores.",
    )
    parser.add_argument(
        "--wild", required=True, help="folder of images, searched recursively; no labels needed"
    )
    parser.add_argument("--keep", required=True, type=int, help="images to keep")
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--prior",
        type=float,
        help="the positives' share of the wild images (required unless --random)",
    )
    parser.add_argument(
        "--random", action="store_true", help="keep a random choice instead, to compare"
    )
    parser.add_argument(
        "--truth",
        help="for analysis: a COCO file (images with annotations are positive) or a CSV with file_name,positive",
    )
    parser.add_argument(
        "--epochs", type=int, default=default.epochs, help="over the wild images (%(default)s)"
    )
    parser.add_argument(
        "--lr",
        type=float,
        default=default.lr,
        help="divided by 10 after 60 %% of the epochs (%(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=default.batch_size,
        help="half labelled, half wild, over all processes (%(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=224, help="images are resized to its square (%(default)s)"
    )
    parser.add_argument(
        "--gradient-ascent",
        type=float,
        nargs=2,
        metavar=("BETA", "GAMMA"),
        help="Kiryo's ascending step instead of the clamp at zero",
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    add_cluster_arguments(parser)
    add_launch_arguments(parser)
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if args.prior is None and not args.random:
        parser.error("--prior is required: the positives' share of the wild images, such as 0.1")
    args.opts = split_opts(args.opts)
    if args.cluster and not args.random:
        cluster = cluster_from(args, os.path.join(args.output, "jobs"))
        # The first job trains the classifier that all of them score with.
        own = without_cluster_arguments(sys.argv[1:] if argv is None else argv)
        run_jobs(cluster, "ssod.tools.purify", own, first_alone=True)
    launch_from(purify, args)


if __name__ == "__main__":
    run_cli(main)
