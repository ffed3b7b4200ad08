"""Writes splits and a config for a folder of images, some of them labelled: ssod start FOLDER

It finds the format of the labels, the classes, and the images without labels; draws images for
validation; writes splits and a config with a comment for each choice into FOLDER_ssod/; and prints
the one command that trains it. `make start IMAGES=FOLDER` sets up the environment first. The folder
itself stays as it is.

examples:
  ssod start photos
  ssod start photos --format cvat --classes cat dog     where more than one tool \\
      left labels
  ssod start photos --device cpu --val-percent 30
"""

from __future__ import annotations

import argparse
import os
from typing import List, Optional

from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.own_data.options import add_dataset_options


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="ssod start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="with images, labelled or not")
    parser.add_argument("--output", metavar="FOLDER", help="for splits and config (NAME_ssod)")
    parser.add_argument(
        "--val-percent",
        type=float,
        default=20,
        metavar="P",
        help="of the labelled images are drawn for validation, where the data names none (20)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="what to train on (a GPU if any)")
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="of a ResNet-50 that you have, to start from"
    )
    parser.add_argument("--force", action="store_true", help="replace files of an earlier start")
    add_dataset_options(parser, split=False)
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    args = build_parser().parse_args(argv)
    from ssod.own_data.choose import find_in_folder
    from ssod.own_data.machine import this_machine
    from ssod.own_data.start import Options, best_format, data_path, is_inside, name_of, start

    if not os.path.isdir(args.folder):
        what = "is a file" if os.path.exists(args.folder) else "does not exist"
        raise UserError(f"{args.folder} {what}: name a folder of images.")
    output = args.output or f"{name_of(args.folder)}_ssod"
    for what, path in (("the working directory", "."), (f"--output {output}", output)):
        if is_inside(path, args.folder):
            raise UserError(
                f"{what} is inside of {args.folder}, so that what is written would become part of it: go up, or name "
                "another --output."
            )
    if not 0 < args.val_percent < 100:
        raise UserError(f"--val-percent {args.val_percent:g}: use a number between 0 and 100.")
    if args.weights and not os.path.isfile(args.weights):
        raise UserError(f"--weights {args.weights} does not exist: correct the path.")
    folder = data_path(args.folder)
    collection, notes = best_format(folder, find_in_folder(folder, args))
    for note in notes:
        print(f"note: {note}")
    options = Options(
        folder=folder,
        output=output,
        percent=args.val_percent,
        seed=args.seed,
        weights=args.weights,
        force=args.force,
    )
    print(start(collection, this_machine(args.device or ""), options))


if __name__ == "__main__":
    run_cli(main)
