"""Runs all tests and measurements that need a GPU, in one command of under ten minutes.

ssod gpu-evidence --output output/gpu_evidence [--minutes 9] [--parts tests steps
    ...]

Run it in the repository's root. It needs only the repository and its environment: images are drawn,
and a short burn-in replaces pretrained weights. Parts: `tests` (tests/test_cuda.py: every method on
the GPU in float32, fp16 and bf16, and beside the CPU), `call_cost` (one more call of the backbone,
in pixels), `steps` (ResNet-50-FPN, 800 pixels, 8 + 8 images: step, parts, lower bound, waiting for
data, memory; channels last, overlap, compile), `tables` (with --sweep: configs x seeds side by
side). OUTPUT gets evidence.json, evidence.md and a log for each part, written anew after each; a
part that fails does not stop the next.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import List, Optional, Sequence

import torch

from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.gpu_evidence.runner import Part, run_parts, test_command

# Seconds that a part may take at most.
LIMITS = {"tests": 150, "call_cost": 40, "steps": 330, "tables": 600}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="ssod gpu-evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", default="output/gpu_evidence", metavar="DIR")
    add("--minutes", type=float, default=9.0, help="for all parts together (default: 9)")
    add("--parts", nargs="+", choices=tuple(LIMITS), default=["tests", "call_cost", "steps"])
    add("--sweep", metavar="OPTIONS", help="the tables part: options of ssod.tools.sweep, quoted")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --tiny, as a trial")
    add("--tiny", action="store_true", help="tiny images and a few steps: a trial of the command")
    return parser


def make_parts(args: argparse.Namespace) -> List[Part]:
    """The commands of the parts that were asked for, in this order."""
    own = [sys.executable, "-m", "ssod.gpu_evidence.part"]
    options = ["--device", args.device] + (["--tiny"] if args.tiny else [])
    parts = []
    for name in args.parts:
        file = f"{name}.json"
        if name == "tests":
            parts.append(Part(name, test_command(args.device), LIMITS[name]))
        elif name == "tables":
            if not args.sweep:
                raise UserError(
                    '--parts tables needs the runs: add --sweep "--configs ... --seeds 1 2".'
                )
            words = shlex.split(args.sweep)
            folder = os.path.join(args.output, "sweep")
            command = [sys.executable, "-m", "ssod.tools.sweep", "--output", folder, *words]
            parts.append(Part(name, command, LIMITS[name]))
        else:
            output = os.path.join(args.output, file)
            parts.append(Part(name, [*own, name, "--output", output, *options], LIMITS[name], file))
    return parts


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command. Exit status 1 when a part did not end well."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    if args.minutes <= 0:
        raise UserError(f"--minutes {args.minutes:g}: use more than 0.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch finds no GPU here: add --device cpu --tiny for a trial of the command."
        )
    if not os.path.isfile("configs/base_rcnn_fpn.yaml"):
        raise UserError(
            "There is no configs/base_rcnn_fpn.yaml here: run it in the repository's root."
        )
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be made: {error.strerror}.") from None
    command = shlex.join(["python", "-m", "ssod.tools.gpu_evidence", *argv])
    outcomes = run_parts(make_parts(args), args.output, args.minutes, command)
    print(f"Written: {os.path.join(args.output, 'evidence.md')}")
    return int(any(outcome.state != "ok" for outcome in outcomes))


if __name__ == "__main__":
    run_cli(lambda: sys.exit(main()))
