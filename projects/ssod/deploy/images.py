"""Chooses the images on which an exported model is compared or timed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ssod.data.readings import dataset_records, register_datasets
from ssod.deploy.predict import SUFFIXES
from ssod.errors import UserError


def image_files(cfg: CfgNode, name: Optional[str], most: int, option: str = "--check") -> List[str]:
    """The first `most` image files of a dataset or a folder.

    Args:
        name: a set of the config or of Detectron2, or a folder; None: the first of `DATASETS.TEST`,
            or else of `DATASETS.VAL`.
        option: the command's, that gave `name`.

    Raises:
        UserError: there is no such set or folder, or it has no image here.
    """
    register_datasets(cfg)
    if name is None:
        sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.VAL]
        if not sets:
            raise UserError(
                f"DATASETS.TEST and VAL are empty: name a dataset or a folder of images with {option}{_or_none(option)}."
            )
        name = sets[0]
    if os.path.isdir(name):
        found = sorted(Path(name).rglob("*"))
        files = [str(path) for path in found if path.suffix.lower() in SUFFIXES][:most]
    elif name in DatasetCatalog:
        files = [record["file_name"] for record in dataset_records(name)][:most]
    else:
        raise UserError(f"{option} {name}: neither a folder nor a dataset of the config.")
    if not files:
        raise UserError(f"{name} has no images: name others with {option}{_or_none(option)}.")
    return files


def _or_none(option: str) -> str:
    return ", or give --check none" if option == "--check" else ""
