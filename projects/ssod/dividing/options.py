"""The options of `ssod splits`, and which of them go together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from ssod.own_data.options import add_dataset_options


def positive_percent(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 100")
    return value


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssod splits",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--coco", nargs="+", metavar="FILE[=FOLDER]", help="COCO files to divide, together"
    )
    source.add_argument("--voc", metavar="ROOT", help="a folder in VOC layout")
    source.add_argument(
        "--folder", metavar="ROOT", help="images without labels, of which --percent are drawn"
    )
    source.add_argument(
        "--data",
        metavar="PATH",
        help="a file or folder with labels in any format that FORMAT knows",
    )
    source.add_argument(
        "--corrected",
        metavar="PATH",
        help="corrected labels in any of these formats, whose images become labelled; with --config-file",
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="--corrected: whose first set of DATASETS.TRAIN takes the images",
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help="--corrected: sets of SSOD.DATASETS to take them out of (default: DATASETS.UNLABELED)",
    )
    parser.add_argument("--voc-split", default="train", help="list in ImageSets/Main (train)")
    parser.add_argument(
        "--prefix",
        type=Path,
        help="of the files to write, with their folder; --corrected without it: the sets' own files, with --force",
    )
    parser.add_argument(
        "--percent", nargs="+", type=positive_percent, help="of the images with boxes"
    )
    parser.add_argument("--folds", type=int, default=1, help="independent draws of each (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--min-boxes-per-class",
        type=int,
        default=0,
        metavar="N",
        help="first draw images of classes with fewer than N boxes; with --percent, then fill up",
    )
    parser.add_argument(
        "--minority",
        nargs="+",
        metavar="CLASS",
        help="label --percent of the images that have other classes, without these classes' boxes, and further images "
        "with --min-boxes-per-class of these; 'voc': the 20 classes that COCO shares with VOC",
    )
    parser.add_argument(
        "--random-minority", type=int, metavar="N", help="the same with N classes drawn by --seed"
    )
    parser.add_argument(
        "--all-boxes",
        action="store_true",
        help="with either: draw as without them and drop no boxes; the minority is only noted, for evaluation",
    )
    parser.add_argument(
        "--majority-from",
        metavar="FILE[=FOLDER]",
        help="COCO's file: all of its images are labelled, in the classes of --coco, which is Objects365; "
        "--min-boxes-per-class counts the other classes",
    )
    parser.add_argument(
        "--unbiased-teacher-seeds", metavar="FILE", help="take the draws from this file"
    )
    parser.add_argument(
        "--truth",
        action="store_true",
        help="also write <prefix>_<rule>_unlabeled_truth.json, for analysis only",
    )
    parser.add_argument(
        "--true-labels",
        action="store_true",
        help="also write <prefix>_<rule>_unlabeled_true_labels.json: the hidden labels with score 1, which SSOD.PSEUDO_LABELS "
        "takes in place of a teacher's, to see what better labels would bring",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that have other content"
    )
    add_dataset_options(parser, masks=True)
    return parser


def problem_with(args: argparse.Namespace) -> Optional[str]:
    """What is wrong with the combination of the options, or None."""
    if (args.format or args.images or args.split) and not (args.data or args.corrected):
        return "--format, --images and --split go with --data or --corrected"
    if args.masks and not args.data:
        return "--masks goes with --data; --coco keeps masks without it"
    if args.classes and not (args.data or args.corrected or args.voc):
        return "--classes goes with --data, --corrected or --voc"
    rules = [args.minority, args.random_minority, args.majority_from, args.unbiased_teacher_seeds]
    if args.corrected:
        return _problem_with_corrected(args, any(rules))
    if args.config_file or args.dataset:
        return "--config-file and --dataset go with --corrected"
    if args.prefix is None:
        return "--prefix is missing: the files' names begin with it"
    if sum(map(bool, rules)) > 1:
        return "--minority, --random-minority, --majority-from and --unbiased-teacher-seeds exclude one another"
    if not args.prefix.name:
        return "--prefix must end in a name, which the files' names begin with"
    if args.random_minority is not None and args.random_minority < 1:
        return "--random-minority must be at least 1"
    if args.folds < 1 or args.min_boxes_per_class < 0:
        return "--folds must be at least 1 and --min-boxes-per-class at least 0"
    if args.folder:
        if any(rules) or args.min_boxes_per_class or not args.percent:
            return "--folder goes with --percent, --folds and --seed, and with no rule about boxes"
        if args.truth or args.true_labels:
            return "--folder has no labels for --truth or --true-labels"
    elif args.minority or args.random_minority:
        if not args.percent or not args.min_boxes_per_class:
            return "--minority and --random-minority need --percent and --min-boxes-per-class"
    elif args.all_boxes:
        return "--all-boxes goes with --minority or --random-minority"
    elif args.majority_from:
        if args.percent or not args.coco or not args.min_boxes_per_class:
            return "--majority-from needs --coco and --min-boxes-per-class, and takes no --percent"
    elif not (args.percent or args.min_boxes_per_class or args.unbiased_teacher_seeds):
        return "give --percent, --min-boxes-per-class or --unbiased-teacher-seeds"
    return None


def _problem_with_corrected(args: argparse.Namespace, rules: bool) -> Optional[str]:
    if not args.config_file:
        return "--corrected needs --config-file, which names the sets that its images move between"
    drawing = (args.percent, args.min_boxes_per_class, args.truth, args.true_labels, args.all_boxes)
    if rules or any(drawing) or args.folds != 1:
        return "--corrected goes with --prefix, --force and what the dataset is, and with no rule that draws"
    if args.prefix is None and not args.force:
        return "--corrected needs --prefix for new files, or --force to change the sets' own files"
    if args.prefix is not None and not args.prefix.name:
        return "--prefix must end in a name, which the files' names begin with"
    return None
