"""Draws the labelled images of each split."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Set

from ssod.dividing.source import Source
from ssod.errors import UserError


@dataclass
class Split:
    """One draw.

    Attributes:
        labeled: ids of the labelled images.
        description: how they were drawn.
        coco: the dataset, with the boxes that are kept.
    """

    name: str
    labeled: Set[Any]
    description: Dict[str, Any]
    coco: Dict[str, Any]


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
    from ssod.data.json_file import read_json
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
