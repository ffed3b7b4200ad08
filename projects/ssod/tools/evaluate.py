"""Evaluates a trained detector on DATASETS.TEST.

ssod evaluate --weights output/mine                      the result of a run, with its own config
ssod evaluate --config-file mine.yaml --weights model.pth [--num-gpus N] [KEY VALUE ...]

`ssod train --eval-only` does the same. The numbers are printed; the detections go to
OUTPUT_DIR/inference.
"""

from __future__ import annotations

import argparse
import os
from typing import List, Optional

from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.tools.train import add_process_arguments, run


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="ssod evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a file, or the OUTPUT_DIR of a run"
    )
    parser.add_argument("--config-file", metavar="FILE", help="(the config.yaml of the run)")
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        help="which one of a full checkpoint (default: teacher)",
    )
    add_process_arguments(parser)
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    args = build_parser().parse_args(argv)
    if not args.config_file:
        folder = args.weights if os.path.isdir(args.weights) else os.path.dirname(args.weights)
        args.config_file = os.path.join(folder, "config.yaml")
        if not os.path.isfile(args.config_file):
            raise UserError(
                f"{args.weights} has no config.yaml beside it: add --config-file, the config that it was trained with."
            )
    args.opts = ["MODEL.WEIGHTS", args.weights, *args.opts]
    args.resume, args.eval_only = False, True
    run(args)


if __name__ == "__main__":
    run_cli(main)
