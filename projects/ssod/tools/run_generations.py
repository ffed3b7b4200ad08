"""Class-rebalancing self-training (CReST), one training run a generation.

ssod generations --config-file digit_scenes/ci_ssod/crest.yaml
    [--num-gpus N] [GENERATIONS 3] [KEY VALUE ...]

GENERATIONS is short for SSOD.CREST.GENERATIONS. The same command again goes on where it was
stopped. OUTPUT_DIR then holds generation_0, generation_1, ... (ordinary training runs) and
summary.md.
"""

from __future__ import annotations

import argparse
from typing import List, Optional

from ssod.engine.setup import run_cli, split_opts
from ssod.tools.pseudo_label import add_launch_arguments, launch_from


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ssod.phases.generations import run_generations

    setup_logger(name="ssod", abbrev_name="ssod", distributed_rank=comm.get_rank())
    run_generations(args.config_file, args.opts)


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod generations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_launch_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    opts = split_opts(args.opts)
    args.opts = ["SSOD.CREST.GENERATIONS" if opt == "GENERATIONS" else opt for opt in opts]
    launch_from(work, args)


if __name__ == "__main__":
    run_cli(main)
