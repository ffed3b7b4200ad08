"""Labels images for an annotation tool, so that a human corrects instead of drawing.

ssod label --config-file X.yaml [--weights RUN] --to cvat --output FOLDER [--images next.csv]

Writes the boxes of a detector, with their scores where the tool has a place for them, and links to
the images: FOLDER can be opened, zipped or uploaded as it is. `ssod splits --corrected` takes the
corrected labels back.
"""

from __future__ import annotations

import argparse
import logging
from typing import List, Optional

from ssod.data.formats.writing.registry import WRITERS
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.tools.pseudo_label import add_launch_arguments, launch_from, parse_threshold


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ssod.active_learning.detection import weights_or_run
    from ssod.active_learning.prelabels import Request, label_for_tool, label_with_truth

    setup_logger(name="ssod", abbrev_name="ssod", distributed_rank=comm.get_rank())
    logging.getLogger("ssod").setLevel(logging.WARNING)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    cfg = load_config(args.config_file, split_opts(args.opts))
    request = Request(
        tool=args.to,
        output=args.output,
        datasets=tuple(args.dataset),
        listed=args.images or "",
        threshold=args.score,
        url=args.image_url,
    )
    if not args.truth:
        label_for_tool(cfg, weights_or_run(cfg, args.weights), request)
    elif comm.is_main_process():
        label_with_truth(cfg, request)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssod label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", required=True, choices=WRITERS, help="the tool, or its format")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument(
        "--weights",
        metavar="FILE|DIR",
        help="a checkpoint, a weights file or a run's folder (default: the config's OUTPUT_DIR)",
    )
    parser.add_argument(
        "--images",
        metavar="FILE",
        help="a list: the next.csv of ssod next, or one path a line (default: all images that are not labelled)",
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="sets of SSOD.DATASETS with the images (default: DATASETS.UNLABELED)",
    )
    parser.add_argument(
        "--threshold",
        default="matched",
        metavar="SCORE",
        help="lowest score; 'matched' (default): per class, so that boxes per image are as in the labelled set",
    )
    parser.add_argument(
        "--truth",
        action="store_true",
        help="the hidden labels of the images instead of a detector's, to simulate an annotator",
    )
    parser.add_argument(
        "--image-url",
        default="",
        metavar="PREFIX",
        help="Label Studio only: what goes before an image's path (default: local files served from FOLDER)",
    )
    add_launch_arguments(parser)
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    args = build_parser().parse_intermixed_args(argv)
    args.score = parse_threshold(args.threshold, "--threshold")
    if args.image_url and args.to != "labelstudio":
        raise UserError("--image-url is for --to labelstudio: leave it out.")
    if args.truth and (args.weights or args.threshold != "matched"):
        raise UserError("--truth needs neither --weights nor --threshold: leave them out.")
    launch_from(work, args)


if __name__ == "__main__":
    run_cli(main)
