"""Trains or evaluates a semi-supervised detector.

ssod train --config-file digit_scenes/unbiased_teacher.yaml [--num-gpus N]
    [--resume] [KEY VALUE ...]
ssod train --config-file ... --eval-only [--model teacher|student] MODEL.WEIGHTS OUTPUT_DIR

The config is a file, or one of those that `ssod configs` lists. With MODEL.DEVICE cpu, --num-gpus N
starts N processes. `torchrun --nproc-per-node N train_net.py ...` works as well.
"""

from __future__ import annotations

import argparse
from typing import Any, List, Optional

from ssod.engine.launch import launch
from ssod.engine.setup import load_config, run_cli, setup
from ssod.engine.trainer import SSODTrainer, evaluate_checkpoint


def work(args: argparse.Namespace) -> Any:
    """What every process runs."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate_checkpoint(cfg, args.model)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Detectron2's flags about processes, and the overrides."""
    parser.add_argument("--num-gpus", type=int, default=1, help="per machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")


def build_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, plus --model."""
    parser = argparse.ArgumentParser(
        prog="ssod train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        help="which one of a checkpoint (default: teacher)",
    )
    add_process_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Starts the processes."""
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    launch(
        work,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
        device=device,
    )


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    run(build_parser().parse_args(argv))


if __name__ == "__main__":
    run_cli(main)
