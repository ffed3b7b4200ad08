"""Divides a labelled dataset into a labelled and an unlabelled part: ssod splits

Writes <prefix>_<rule>_labeled.json and <prefix>_<rule>_unlabeled.json in COCO format, with a
content hash that training checks. Declare them in SSOD.DATASETS (datasets/README.md); IMAGES stays
the folder of the original images.

examples:
  # 1, 5 and 10 %, five folds each: splits/coco_1pct_fold0_labeled.json, ...
  ssod splits --coco annotations/instances_train2017.json \\
      --percent 1 5 10 --folds 5 --prefix splits/coco

  # from VOC layout, images drawn until every class has 10 boxes:
  # splits/cells_10boxes_fold0_labeled.json
  ssod splits --voc cells --voc-split train --min-boxes-per-class 10 \\
      --prefix splits/cells

  # from YOLO, CVAT, LabelMe, Label Studio, CSV, COCO or VOC, whichever the path holds:
  # splits/photos_10pct_fold0_labeled.json
  ssod splits --data photos/data.yaml --percent 10 --prefix splits/photos

  # several files, each with its folder below IMAGES
  ssod splits --coco train2014.json=train2014 val2014.json=val2014 --percent \\
      10 --prefix splits/coco14

  # the COCO sub-task of CI-SSOD: 10 % of the images show majority classes only, a few have 10 boxes
  # of each minority class
  ssod splits --coco annotations/instances_train2017.json --minority voc \\
      --percent 10 --min-boxes-per-class 10 --prefix splits/coco

  # COCO in the classes of Objects365, and Objects365 images with 10 boxes of each class that COCO
  # lacks
  ssod splits --coco objects365/train.json=objects365 --majority-from \\
      coco/train2017.json=coco/train2017 \\
      --min-boxes-per-class 10 --prefix splits/objects365

  # 20 % of a folder, to be unlabelled: splits/imagenet_20pct_fold0_unlabeled.json
  ssod splits --folder imagenet/train --percent 20 --prefix splits/imagenet

  # labels that an annotator has corrected: their images move from the unlabelled to the labelled
  # set of mine.yaml, in new files splits/round1_labeled.json and splits/round1_unlabeled.json
  ssod splits --corrected annotations.xml --config-file mine.yaml --prefix \\
      splits/round1

  # Unbiased Teacher's own draws
  ssod splits --coco annotations/instances_train2017.json \\
      --unbiased-teacher-seeds COCO_supervision.txt --percent 1 --prefix splits/coco
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from ssod.dividing.draws import draw_splits
from ssod.dividing.options import build_parser, problem_with
from ssod.dividing.source import read_source
from ssod.dividing.table import format_table
from ssod.errors import UserError


def run(args: argparse.Namespace) -> None:
    from ssod.data.split_rules import usable_classes
    from ssod.data.splits import split_coco, write_files
    from ssod.utils.progress import progress

    source = read_source(args)
    single = args.voc or args.folder or args.data
    entries = [single] if single else args.coco
    if args.majority_from:
        entries = [*entries, args.majority_from]
    if not args.folder and not usable_classes(source.coco):
        raise UserError(
            f"{', '.join(entries)}: no image has a usable box, so there is nothing to divide: correct the boxes."
        )
    splits = list(draw_splits(args, source))
    # Names without folders, so that the same split made on another machine has the same hash.
    names = [Path(entry.partition("=")[0]).name for entry in entries]
    wanted = ["unlabeled"] if args.folder else ["labeled", "unlabeled"]
    if args.truth:
        wanted.append("unlabeled_truth")
    if args.true_labels:
        wanted.append("unlabeled_true_labels")
    files: Dict[Path, Dict[str, Any]] = {}
    for split in progress(splits, "dividing", unit="split"):
        parts = split_coco(split.coco, split.labeled, {"source": names, **split.description})
        for part in wanted:
            path = args.prefix.with_name(f"{args.prefix.name}_{split.name}_{part}.json")
            if parts[part]["images"]:
                files[path] = parts[part]
            else:
                print(f"{path}: no image is left for it, so it is not written")
    changed = write_files(files, force=args.force)
    if not args.folder:
        print(format_table(source.coco, splits))
    for path, content in files.items():
        state = "written" if path in changed else "unchanged"
        print(f"{path}: {len(content['images'])} images, {state}")


def _take_back(args: argparse.Namespace) -> None:
    from ssod.active_learning.corrections import take_back
    from ssod.engine.setup import load_config

    take_back(load_config(args.config_file), args)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = build_parser(__doc__ or "")
    args = parser.parse_args(argv)
    problem = problem_with(args)
    if problem:
        parser.error(problem)
    try:
        _take_back(args) if args.corrected else run(args)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
