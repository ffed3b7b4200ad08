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
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ssod.errors import UserError
from ssod.own_data.options import add_dataset_options


@dataclass
class Source:
    """The dataset to divide, as one COCO dict; `majority` has the images of --majority-from,
    `shared` their classes.
    """

    coco: Dict[str, Any]
    majority: Set[Any] = field(default_factory=set)
    shared: Set[Any] = field(default_factory=set)


@dataclass
class Split:
    """One draw: the ids of the labelled images, how they were drawn, and the dataset with the boxes
    that are kept.
    """

    name: str
    labeled: Set[Any]
    description: Dict[str, Any]
    coco: Dict[str, Any]


def read_source(args: argparse.Namespace) -> Source:
    from ssod.data.folder import FolderSet
    from ssod.data.merge import merge_coco, voc_to_coco

    if args.voc:
        return Source(voc_to_coco(args.voc, args.voc_split, tuple(args.classes or ())))
    if args.data:
        return Source(_read_data(args))
    if args.folder:
        paths = FolderSet("--folder", args.folder).relative_paths()
        images = [{"id": i + 1, "file_name": path} for i, path in enumerate(paths)]
        return Source({"images": images, "annotations": [], "categories": []})
    if args.majority_from:
        return _read_two_datasets(args)
    return Source(merge_coco([_file_and_folder(entry) for entry in args.coco]))


def _read_data(args: argparse.Namespace) -> Dict[str, Any]:
    from ssod.own_data.choose import read_chosen
    from ssod.own_data.collection import to_coco

    collection = read_chosen(args.data, args)
    for message in collection.messages:
        print(f"note: {message}")
    print(f"IMAGES: {collection.root}")
    return to_coco(collection, collection.photos)


def _read_two_datasets(args: argparse.Namespace) -> Source:
    from ssod.data.class_lists import COCO_TO_OBJECTS365
    from ssod.data.merge import merge_coco
    from ssod.data.settings import match_classes, translate

    majority = _file_and_folder(args.majority_from)
    shared: Set[Any] = set()
    count = 0

    def in_their_classes(
        path: str, content: Dict[str, Any], categories: List[Dict[str, Any]]
    ) -> Dict[str, Any]:
        nonlocal count
        if path != majority[0]:
            return content
        target = match_classes(content["categories"], categories, COCO_TO_OBJECTS365, path)
        shared.update(target.values())
        content = translate(content, target, categories)
        count = len(content["images"])
        return content

    entries = [*map(_file_and_folder, args.coco), majority]
    coco = merge_coco(entries, in_their_classes)
    images = coco["images"]
    return Source(coco, {image["id"] for image in images[len(images) - count :]}, shared)


def _file_and_folder(entry: str) -> Tuple[str, str]:
    path, _, folder = entry.partition("=")
    return path, folder


def draw_splits(args: argparse.Namespace, source: Source) -> Iterator[Split]:
    """Yields each split that the options ask for."""
    from ssod.data.split_rules import choose, choose_of_all

    if args.unbiased_teacher_seeds:
        yield from _read_seed_file(args, source.coco)
        return
    for percent in args.percent or [None]:
        for fold in range(args.folds):
            draw = {"percent": percent, "seed": args.seed, "fold": fold}
            boxes = args.min_boxes_per_class
            parts = [] if percent is None else [f"{percent:g}pct"]
            if boxes:
                parts.append(f"{boxes}boxes")
            name = "_".join([*parts, f"fold{fold}"])
            if args.minority or args.random_minority or args.majority_from:
                yield _draw_sub_task(args, source, f"minority_{name}", draw)
                continue
            if args.folder:
                # The drawn images are the unlabelled ones; the rest is not used.
                drawn = choose_of_all(source.coco, percent=percent, seed=args.seed, fold=fold)
                images = [image for image in source.coco["images"] if image["id"] in drawn]
                yield Split(name, set(), draw, {**source.coco, "images": images})
                continue
            chosen = choose(
                source.coco, percent=percent, min_boxes=boxes, seed=args.seed, fold=fold
            )
            description = {"percent": percent, "min_boxes_per_class": boxes, **draw}
            yield Split(name, chosen, description, source.coco)


def _draw_sub_task(
    args: argparse.Namespace, source: Source, name: str, draw: Dict[str, Any]
) -> Split:
    from ssod.data.class_lists import VOC_CLASSES_IN_COCO
    from ssod.data.settings import (
        category_ids,
        choose_minority_images,
        choose_sub_task,
        drop_boxes,
        random_classes,
    )
    from ssod.data.split_rules import choose

    coco, boxes = source.coco, args.min_boxes_per_class
    percent, place = draw["percent"], {"seed": draw["seed"], "fold": draw["fold"]}
    if args.majority_from:
        names = [c["name"] for c in coco["categories"] if c["id"] not in source.shared]
    elif args.random_minority:
        names = random_classes(coco, args.random_minority, args.seed)
    else:
        names = list(VOC_CLASSES_IN_COCO) if args.minority == ["voc"] else args.minority
    minority = category_ids(coco, names)
    if args.all_boxes:
        chosen = choose(coco, percent=percent, min_boxes=boxes, **place)
    elif args.majority_from:
        few = choose_minority_images(coco, minority, min_boxes=boxes, **place)
        chosen = source.majority | few
    else:
        many, few = choose_sub_task(coco, minority, percent=percent, min_boxes=boxes, **place)
        coco, chosen = drop_boxes(coco, many, minority), many | few
    description = {
        **draw,
        "min_boxes_per_class": boxes,
        "minority": [c["name"] for c in coco["categories"] if c["id"] in minority],
    }
    return Split(name, chosen, description, coco)


def _read_seed_file(args: argparse.Namespace, coco: Dict[str, Any]) -> Iterator[Split]:
    from ssod.data.coco import read_json
    from ssod.data.split_rules import choose_by_index

    path = args.unbiased_teacher_seeds
    table = read_json(path)
    try:
        seeds = {
            float(p): {int(s): [int(i) for i in v] for s, v in row.items()}
            for p, row in table.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f'{path} is no seed file: it must look like {{"1.0": {{"1": [indices]}}}}.'
        ) from None
    for percent in args.percent or sorted(seeds):
        if percent not in seeds:
            choices = ", ".join(f"{p:g}" for p in sorted(seeds))
            raise UserError(f"{path} has no draws for {percent:g} percent: use one of {choices}.")
        for seed, indices in sorted(seeds[percent].items()):
            description = {"percent": percent, "unbiased_teacher_seed": seed}
            chosen = choose_by_index(coco, indices, percent, path)
            yield Split(f"{percent:g}pct_seed{seed}", chosen, description, coco)


def format_table(coco: Dict[str, Any], splits: Sequence[Split]) -> str:
    """Images and usable boxes of each class: one row a class, one column a split's labelled
    part.
    """
    from tabulate import tabulate

    from ssod.data.split_rules import usable_classes

    def boxes(content: Dict[str, Any], ids: Optional[Set[Any]]) -> Counter:
        total: Counter = Counter()
        for image, found in usable_classes(content).items():
            if ids is None or image in ids:
                total.update(found)
        return total

    columns = [boxes(coco, None), *(boxes(split.coco, split.labeled) for split in splits)]
    sizes = [len(coco["images"]), *(len(split.labeled) for split in splits)]
    minority = {name for split in splits for name in split.description.get("minority", ())}
    rows: List[List[Any]] = [["images", *sizes]]
    for category in sorted(coco["categories"], key=lambda c: c["id"]):
        name = str(category["name"])
        label = f"{name} (minority)" if name in minority else name
        rows.append([label, *(column[category["id"]] for column in columns)])
    rows.append(["all boxes", *(sum(column.values()) for column in columns)])
    return tabulate(rows, headers=["labelled part", "whole set", *(split.name for split in splits)])


def positive_percent(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 100")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssod splits",
        description=__doc__,
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


def run(args: argparse.Namespace) -> None:
    from ssod.data.split_rules import usable_classes
    from ssod.data.splits import split_coco, write_files

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
    for split in splits:
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


def _take_back(args: argparse.Namespace) -> None:
    from ssod.active_learning.corrections import take_back
    from ssod.engine.setup import load_config

    take_back(load_config(args.config_file), args)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = build_parser()
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
