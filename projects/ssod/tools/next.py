"""Ranks unlabelled images by what a label would teach the detector.

ssod next --config-file X.yaml [--weights RUN] --count 25 --output DIR

An image's quality is the mean of its ranks in three parts:

* uncertainty: how unsure the teacher is, summed over the classes;
* disagreement of teacher and student, where the checkpoint has both;
* rarity of the classes that the image seems to hold, in the labelled set.

The list covers the unlabelled images by the backbone's features: each image is the one that brings
them nearest to something labelled or listed, times its own quality. So neither near-duplicates nor
outliers fill it (diversity). ssod/active_learning/scores.py, ranking.py and
diversity.py have the formulae and their sources.

DIR/next.csv is the list, with a column for each part; scores.csv has all images, next.jpg shows the
list with the teacher's boxes and the reasons. Detections are kept in DIR/predictions, so that a
killed command goes on where it stopped, and another --count or --parts needs no detector.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import List, Optional

from ssod.active_learning.ranking import PARTS
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.tools.pseudo_label import add_launch_arguments, launch_from


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ssod.active_learning.detection import weights_or_run
    from ssod.active_learning.selection import choose_at_random, choose_next

    setup_logger(name="ssod", abbrev_name="ssod", distributed_rank=comm.get_rank())
    logging.getLogger("ssod").setLevel(logging.WARNING)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    cfg = load_config(args.config_file, split_opts(args.opts))
    if args.random:
        if comm.is_main_process():
            choose_at_random(cfg, args.output, count=args.count, datasets=args.dataset)
        return
    choose_next(
        cfg,
        weights_or_run(cfg, args.weights),
        args.output,
        count=args.count,
        datasets=args.dataset,
        parts=args.parts,
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssod next",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        metavar="FILE|DIR",
        help="a checkpoint, a weights file or a run's folder (default: the config's OUTPUT_DIR)",
    )
    parser.add_argument("--count", type=int, default=25, help="images to list (%(default)s)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="sets of SSOD.DATASETS to choose from (default: DATASETS.UNLABELED)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=list(PARTS),
        choices=PARTS,
        metavar="PART",
        help=f"which of {', '.join(PARTS)} count (all); put another option, or --, before KEY VALUE",
    )
    parser.add_argument(
        "--random", action="store_true", help="a random list instead, drawn by SEED, to compare"
    )
    add_launch_arguments(parser)
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    args = build_parser().parse_intermixed_args(argv)
    if args.count < 1:
        raise UserError(f"--count {args.count}: list at least 1 image.")
    if os.path.lexists(args.output) and not os.path.isdir(args.output):
        raise UserError(f"--output {args.output} is a file: name a folder.")
    launch_from(work, args)


if __name__ == "__main__":
    run_cli(main)
