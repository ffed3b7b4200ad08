"""Multi-phase learning from the supervised model to the ensemble, one training run a phase.

ssod phases --config-file digit_scenes/multi_phase.yaml [--num-gpus N]
    [--fraction 0.5] [PHASES 2] [KEY VALUE ...]

PHASES is short for SSOD.MULTI_PHASE.PHASES. The same command again goes on where it was stopped.
OUTPUT_DIR then holds phase_0, phase_1, ... (ordinary training runs), summary.md and summary.csv
(each model and the ensembles on all, easy and difficult test images) and phases.json.
"""

from __future__ import annotations

import argparse
from typing import List, Optional, Sequence

from ssod.engine.setup import run_cli, split_opts
from ssod.tools.pseudo_label import add_launch_arguments, launch_from


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ssod.phases.runner import run_phases

    setup_logger(name="ssod", abbrev_name="ssod", distributed_rank=comm.get_rank())
    run_phases(args.config_file, args.opts)


def long_names(opts: Sequence[str]) -> List[str]:
    """The overrides with PHASES written out."""
    keys = ["SSOD.MULTI_PHASE.PHASES" if key == "PHASES" else key for key in opts[0::2]]
    return [item for pair in zip(keys, opts[1::2]) for item in pair] + list(
        opts[2 * len(opts[1::2]) :]
    )


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod phases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_launch_arguments(parser)
    parser.add_argument(
        "--fraction",
        type=float,
        help="short for SSOD.MULTI_PHASE.FRACTION: phase i of N keeps this share times i/N of the images (Figure 6)",
    )
    args = parser.parse_intermixed_args(argv)
    args.opts = long_names(split_opts(args.opts))
    if args.fraction is not None:
        args.opts += ["SSOD.MULTI_PHASE.FRACTION", str(args.fraction)]
    launch_from(work, args)


if __name__ == "__main__":
    run_cli(main)
