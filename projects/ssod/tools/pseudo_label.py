"""Labels the unlabelled images once, with one or several trained detectors.

ssod pseudo-label --config-file X.yaml --weights W.pth [W2.pth ...] --output
    labels.json [--num-gpus N]

Writes a COCO-format JSON with scores, which `SSOD.PSEUDO_LABELS` trains on and Detectron2 reads as
it is. Predictions are kept in OUTPUT.predictions, so that a killed command goes on where it
stopped; the folder may be removed afterwards.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any, List, Optional

from ssod.cluster.jobs import (
    add_cluster_arguments,
    cluster_from,
    run_jobs,
    without_cluster_arguments,
)
from ssod.engine.launch import launch
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.utils.share import parse_share


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ssod.pseudo_labels.labelling import label_images

    setup_logger(name="ssod", abbrev_name="ssod", distributed_rank=comm.get_rank())
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    label_images(
        load_config(args.config_file, split_opts(args.opts)),
        args.weights,
        args.output,
        args.output + ".predictions",
        threshold=args.thresholds,
        tta=args.tta,
        combine=args.combine,
        share=parse_share(args.share),
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, processes and overrides, as train_net.py has them."""
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto")
    # Not REMAINDER, which would take every option that follows the first override.
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")


def launch_from(main_func: Any, args: argparse.Namespace) -> None:
    """Starts `main_func(args)` in as many processes as `add_launch_arguments`' options say."""
    launch(
        main_func,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
        device=load_config(args.config_file, split_opts(args.opts)).MODEL.DEVICE,
    )


def parse_threshold(text: str, option: str) -> Optional[float]:
    """None for "matched", else a score.

    Raises:
        UserError: it is neither; the message names the option.
    """
    if text == "matched":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{option} {text}: use 'matched' or a score between 0 and 1.")
    return value


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod pseudo-label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        required=True,
        metavar="FILE",
        help="oldest model first; put another option, or --, before KEY VALUE",
    )
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation as TEST.AUG says"
    )
    parser.add_argument(
        "--thresholds",
        default="matched",
        help="'matched' (default): per class, so that boxes per image are as in the labelled set; or one score",
    )
    parser.add_argument(
        "--combine",
        choices=("agreed", "fused"),
        default="agreed",
        help="of several models: the labels that all agree on (default), or all detections in one weighted boxes fusion",
    )
    add_cluster_arguments(parser)
    add_launch_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    args.thresholds = parse_threshold(args.thresholds, "--thresholds")
    parse_share(args.share)
    if args.cluster:
        own = without_cluster_arguments(sys.argv[1:] if argv is None else argv)
        cluster = cluster_from(args, args.output + ".jobs")
        run_jobs(cluster, "ssod.tools.pseudo_label", own)
    launch_from(work, args)


if __name__ == "__main__":
    run_cli(main)
