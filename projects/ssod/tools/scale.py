"""Measures how a training starts on millions of images, without any image.

python -m ssod.tools.scale --config-file X.yaml --labeled 1000000 --unlabeled 10000000 \\
    [--workers N] [--output scale.json] [KEY VALUE ...]

It writes COCO files of images that do not exist, builds the config's trainer on them (model,
methods, samplers), and reads records in loader workers. It prints the seconds of each part of the
start, and the memory of this process and of the workers: `private` is what a worker alone holds,
`pss` counts shared pages by their number of users.

Skipped: listing the folders of images, reading images, evaluation sets. Ten million images need
1 GB of disk below --folder, a million labelled ones another GB.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import List, Optional

from ssod.engine.setup import load_config, run_cli, split_opts


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    for option, default, meaning in (
        ("--labeled", 10_000, "labelled images"),
        ("--unlabeled", 100_000, "unlabelled images"),
        ("--workers", 4, "loader workers"),
        ("--reads", 20_000, "records of each stream that a worker reads"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{meaning} ({default:,})"
        )
    parser.add_argument("--folder", metavar="DIR", help="for the files (default: a temporary one)")
    parser.add_argument("--output", metavar="FILE", help="a JSON file with the numbers")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args(argv)
    for name in ("labeled", "unlabeled", "workers", "reads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: use at least 1.")
    cfg = load_config(args.config_file, split_opts(args.opts))
    from ssod.benchmark.scale import format_scale, measure
    from ssod.benchmark.synthetic_sets import SetSizes

    if args.folder:
        os.makedirs(args.folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ssod-scale-", dir=args.folder) as folder:
        sizes = SetSizes(args.labeled, args.unlabeled)
        found = measure(cfg, folder, sizes, args.workers, args.reads)
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    print(format_scale(found))


if __name__ == "__main__":
    run_cli(main)
