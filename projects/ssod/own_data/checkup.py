"""`doctor DATASET`: prints a description of a dataset and writes a contact sheet."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from detectron2.data import DatasetCatalog

from ssod.data.classes import dataset_classes
from ssod.data.declarations import parse_declarations, suggestion
from ssod.data.readings import register_datasets
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.own_data.choose import common_folder, read_chosen, read_with_masks
from ssod.own_data.collection import Collection, collect, collect_records
from ssod.own_data.examine import describe, examine
from ssod.own_data.sheet import write_sheet


def check_up(args: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        args: with `dataset`, `config_file`, `sheet` and the options of `ssod.own_data.options`.
    """
    collection = _declared(args) if args.config_file else _at_path(args)
    seen = examine(collection)
    print(describe(collection, seen))
    sheet = args.sheet or os.path.join("output", "doctor", f"{_file_name(args.dataset)}.jpg")
    if write_sheet(collection, seen, sheet):
        print(f"\nThe contact sheet is {sheet}.")


def _at_path(args: argparse.Namespace) -> Collection:
    if not os.path.exists(args.dataset) and args.dataset in DatasetCatalog.list():
        return _registered(args.dataset)
    return read_chosen(args.dataset, args)


def _declared(args: argparse.Namespace) -> Collection:
    cfg = load_config(args.config_file)
    declared = parse_declarations(cfg)
    if args.dataset in declared:
        dataset = declared[args.dataset]
        if getattr(args, "masks", False) or cfg.MODEL.MASK_ON:
            dataset = read_with_masks(dataset)
        kind = cfg.SSOD.DATASETS[args.dataset]["FORMAT"]
        return collect([(dataset, "")], str(dataset.metadata()["image_root"]), [kind])
    register_datasets(cfg)
    if args.dataset in DatasetCatalog.list():
        return _registered(args.dataset)
    raise UserError(
        f"{args.config_file} declares no {args.dataset!r}: {suggestion(args.dataset, declared)}"
    )


def _registered(name: str) -> Collection:
    """A dataset that Detectron2 or the user's own code has registered."""
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}, needed by {name}, does not exist: put it there or set DETECTRON2_DATASETS."
        ) from None
    root = common_folder(os.path.dirname(record["file_name"]) for record in records)
    return collect_records(records, dataset_classes(name) or [], root)


def _file_name(dataset: str) -> str:
    return Path(os.path.abspath(dataset)).stem
