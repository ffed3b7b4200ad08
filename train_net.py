#!/usr/bin/env python
"""Trains or evaluates a semi-supervised detector.

python train_net.py --config-file configs/digit_scenes/unbiased_teacher.yaml [--num-gpus N]
    [--resume] [KEY VALUE ...]
python train_net.py --config-file ... --eval-only [--model teacher|student] MODEL.WEIGHTS OUTPUT_DIR

With MODEL.DEVICE cpu, --num-gpus N starts N processes. `torchrun --nproc-per-node N train_net.py
...` works as well.
"""

import argparse
from typing import Any

from ssod.missing import explain_failed_imports

explain_failed_imports()

from ssod.engine.launch import launch  # noqa: E402
from ssod.engine.setup import load_config, run_cli, setup  # noqa: E402
from ssod.engine.trainer import SSODTrainer, evaluate_checkpoint  # noqa: E402


def main(args: argparse.Namespace) -> Any:
    """What every process runs."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate_checkpoint(cfg, args.model)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def parse_args() -> argparse.Namespace:
    """Detectron2's flags, plus --model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        help="which one of a checkpoint (default: teacher)",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="per machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


def run() -> None:
    """Starts the processes."""
    args = parse_args()
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
        device=device,
    )


if __name__ == "__main__":
    run_cli(run)
