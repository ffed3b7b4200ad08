"""Divides a labelled dataset into a labelled and an unlabelled part: python -m ssod.tools.make_splits

Writes <prefix>_<rule>_labeled.json and <prefix>_<rule>_unlabeled.json in COCO format, with a content hash that training
checks. Declare them in SSOD.DATASETS (datasets/README.md); IMAGES stays the folder of the original images.

examples:
  # 1, 5 and 10 %, five folds each: splits/coco_1pct_fold0_labeled.json, ...
  python -m ssod.tools.make_splits --coco annotations/instances_train2017.json \\
      --percent 1 5 10 --folds 5 --prefix splits/coco

  # from VOC layout, images drawn until every class has 10 boxes: splits/cells_10boxes_fold0_labeled.json
  python -m ssod.tools.make_splits --voc cells --voc-split train --min-boxes-per-class 10 --prefix splits/cells

  # several files, each with its folder below IMAGES
  python -m ssod.tools.make_splits --coco train2014.json=train2014 val2014.json=val2014 --percent 10 --prefix splits/coco14

  # Unbiased Teacher's own draws
  python -m ssod.tools.make_splits --coco annotations/instances_train2017.json \\
      --unbiased-teacher-seeds COCO_supervision.txt --percent 1 --prefix splits/coco
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ssod.errors import UserError


def read_sources(args: argparse.Namespace) -> Dict[str, Any]:
    """The dataset to divide, as one COCO dict."""
    from ssod.data.merge import merge_coco, voc_to_coco

    if args.voc:
        return voc_to_coco(args.voc, args.voc_split, tuple(args.classes or ()))
    return merge_coco([tuple(entry.partition("=")[::2]) for entry in args.coco])


def draw_splits(
    args: argparse.Namespace, coco: Dict[str, Any]
) -> Iterator[Tuple[str, Set[Any], Dict[str, Any]]]:
    """Yields (name, ids of the labelled images, description) for each split that the options ask for."""
    from ssod.data.split_rules import choose

    if args.unbiased_teacher_seeds:
        yield from _read_seed_file(args, coco)
        return
    for percent in args.percent or [None]:
        for fold in range(args.folds):
            description = {
                "percent": percent,
                "min_boxes_per_class": args.min_boxes_per_class,
                "seed": args.seed,
                "fold": fold,
            }
            chosen = choose(
                coco, percent=percent, min_boxes=args.min_boxes_per_class, seed=args.seed, fold=fold
            )
            parts = [] if percent is None else [f"{percent:g}pct"]
            if args.min_boxes_per_class:
                parts.append(f"{args.min_boxes_per_class}boxes")
            yield "_".join([*parts, f"fold{fold}"]), chosen, description


def _read_seed_file(
    args: argparse.Namespace, coco: Dict[str, Any]
) -> Iterator[Tuple[str, Set[Any], Dict[str, Any]]]:
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
            yield f"{percent:g}pct_seed{seed}", chosen, description


def format_table(coco: Dict[str, Any], splits: Dict[str, Set[Any]]) -> str:
    """Images and usable boxes of each class: one row a class, one column a split's labelled part."""
    from tabulate import tabulate

    from ssod.data.split_rules import usable_classes

    counts = usable_classes(coco)
    columns: Dict[str, Optional[Set[Any]]] = {"whole set": None, **splits}

    def boxes(chosen: Optional[Set[Any]], category: Any) -> int:
        return sum(c[category] for image, c in counts.items() if chosen is None or image in chosen)

    rows: List[List[Any]] = [
        ["images", *(len(coco["images"] if ids is None else ids) for ids in columns.values())]
    ]
    for category in sorted(coco["categories"], key=lambda c: c["id"]):
        rows.append([category["name"], *(boxes(ids, category["id"]) for ids in columns.values())])
    rows.append(
        ["all boxes", *(sum(row[i] for row in rows[1:]) for i in range(1, len(columns) + 1))]
    )
    return tabulate(rows, headers=["labelled part", *columns])


def positive_percent(text: str) -> float:
    value = float(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ssod.tools.make_splits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--coco", nargs="+", metavar="FILE[=FOLDER]", help="COCO files to divide, together"
    )
    source.add_argument("--voc", metavar="ROOT", help="a folder in VOC layout")
    parser.add_argument("--voc-split", default="train", help="list in ImageSets/Main (train)")
    parser.add_argument(
        "--classes", nargs="+", help="class names of --voc in order (all that occur, sorted)"
    )
    parser.add_argument(
        "--prefix", required=True, type=Path, help="of the files to write, with their folder"
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
        "--unbiased-teacher-seeds", metavar="FILE", help="take the draws from this file"
    )
    parser.add_argument(
        "--truth",
        action="store_true",
        help="also write <prefix>_<rule>_unlabeled_truth.json, for analysis only",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that have other content"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from ssod.data.split_rules import usable_classes
    from ssod.data.splits import split_coco, write_files

    coco = read_sources(args)
    source = [args.voc] if args.voc else args.coco
    if not usable_classes(coco):
        raise UserError(
            f"{', '.join(source)}: no image has a usable box, so that there is nothing to divide."
        )
    chosen: Dict[str, Set[Any]] = {}
    files: Dict[Path, Dict[str, Any]] = {}
    for name, ids, description in draw_splits(args, coco):
        chosen[name] = ids
        # Names without folders, so that the same split made on another machine has the same hash.
        description = {
            "source": [Path(entry.partition("=")[0]).name for entry in source],
            **description,
        }
        for part, content in split_coco(coco, ids, description).items():
            if part != "unlabeled_truth" or args.truth:
                files[args.prefix.with_name(f"{args.prefix.name}_{name}_{part}.json")] = content
    changed = write_files(files, force=args.force)
    print(format_table(coco, chosen))
    for path in files:
        print(f"{path}: {'written' if path in changed else 'unchanged'}")


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if not (args.percent or args.min_boxes_per_class or args.unbiased_teacher_seeds):
        parser.error("give --percent, --min-boxes-per-class or --unbiased-teacher-seeds")
    if args.folds < 1 or args.min_boxes_per_class < 0:
        parser.error("--folds must be at least 1 and --min-boxes-per-class at least 0")
    try:
        run(args)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
