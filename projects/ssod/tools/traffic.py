"""Counts what a config's ranks send each other in a step, with two processes on the CPU.

python -m ssod.tools.traffic --config-file X.yaml [--steps N] [--json] [KEY VALUE ...]

The bytes depend on the model and the methods, but hardly on the images: small ones
(INPUT.MIN_SIZE_TRAIN "(64,)") give the same gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import List, Optional

from ssod.engine.launch import launch
from ssod.engine.setup import load_config, run_cli, split_opts


def work(args: argparse.Namespace, folder: str) -> None:
    """Runs in both processes; rank 0 writes the result."""
    from detectron2.utils import comm

    from ssod.benchmark.traffic import measure_traffic, summarise

    cfg = load_config(args.config_file, [*split_opts(args.opts), "MODEL.DEVICE", "cpu"])
    found, sizes = measure_traffic(cfg, os.path.join(folder, "run"), args.steps)
    if comm.is_main_process():
        with open(os.path.join(folder, "traffic.json"), "w") as file:
            json.dump(summarise(found, sizes), file)


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod traffic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="(default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args(argv)
    if args.steps < 1:
        parser.error(f"--steps {args.steps}: use at least 1.")
    load_config(args.config_file, split_opts(args.opts))  # wrong input ends before processes start
    with tempfile.TemporaryDirectory(prefix="ssod-traffic-") as folder:
        launch(work, 2, args=(args, folder), device="cpu")
        with open(os.path.join(folder, "traffic.json")) as file:
            found = json.load(file)
    if args.json:
        print(json.dumps(found))
        return
    from ssod.benchmark.traffic import format_traffic

    print(format_traffic(found))


if __name__ == "__main__":
    run_cli(main)
