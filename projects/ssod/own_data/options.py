"""Command-line options that describe a dataset.

The module imports no package that may be missing.
"""

from __future__ import annotations

import argparse


def add_dataset_options(
    parser: argparse.ArgumentParser, *, split: bool = True, masks: bool = False
) -> None:
    """Adds the options that describe a dataset beyond its path."""
    group = parser.add_argument_group("what the dataset is; found out where it is not given")
    group.add_argument("--format", metavar="FORMAT", help="as in SSOD.DATASETS: coco, yolo, ...")
    group.add_argument("--images", metavar="FOLDER", help="the images, where they lie elsewhere")
    group.add_argument("--classes", nargs="+", metavar="CLASS", help="class names in order")
    if split:
        group.add_argument("--split", metavar="NAME", help="train, val, ..., where it has several")
    if masks:
        group.add_argument(
            "--masks",
            action="store_true",
            help="read masks and polygons as training with MODEL.MASK_ON does; boxes without one are skipped",
        )
