"""Which images an exported model is compared or timed on."""

from __future__ import annotations

import os
from typing import List, Optional

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ssod.data.catalog import dataset_records, register_datasets
from ssod.deploy.predict import find_images
from ssod.errors import UserError


def image_files(cfg: CfgNode, name: Optional[str], most: int) -> List[str]:
    """The first `most` image files of a dataset or a folder.

    Args:
        name: a set of the config or of Detectron2, or a folder; None: the first of `DATASETS.TEST`,
            or else of `DATASETS.VAL`.

    Raises:
        UserError: there is no such set or folder, or it has no image here.
    """
    register_datasets(cfg)
    if name is None:
        sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.VAL]
        if not sets:
            raise UserError(
                "DATASETS.TEST and VAL are empty, so there is nothing to compare the models on: give --check with a set or a "
                "folder of images, or --check none."
            )
        name = sets[0]
    if os.path.isdir(name):
        files = [str(path) for path in find_images([name]).values()][:most]
    elif name in DatasetCatalog:
        files = [record["file_name"] for record in dataset_records(name)][:most]
    else:
        raise UserError(f"--check {name}: neither a folder nor a dataset of the config.")
    if not files:
        raise UserError(
            f"{name} has no images: give --check with another set or a folder of images, or --check none."
        )
    return files
