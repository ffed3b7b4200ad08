"""The names and ids of a model's classes."""

from __future__ import annotations

from typing import List

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ssod.config import class_number
from ssod.data.readings import register_datasets
from ssod.errors import UserError


def class_names(cfg: CfgNode) -> List[str]:
    """The class names of the training set; numbers if the set is not available."""
    key, count = class_number(cfg)
    try:
        register_datasets(cfg)
        name = cfg.DATASETS.TRAIN[0]
        if not MetadataCatalog.get(name).get("thing_classes"):
            DatasetCatalog.get(name)  # some datasets learn their classes when first read
        names = list(MetadataCatalog.get(name).thing_classes)
    except (UserError, OSError, KeyError, IndexError, AttributeError) as error:
        print(f"note: class names are not at hand ({error}): the classes are numbered.")
        return [str(index) for index in range(count)]
    if len(names) != count:
        raise UserError(f"{key} is {count}, but {name} has {len(names)} classes: set it to that.")
    return names


def category_ids(cfg: CfgNode, count: int) -> List[int]:
    """The ids of the classes in the training set's COCO JSON; 1, 2, ... for other formats.

    Call `class_names` first: it reads the set.
    """
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    known = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") if name else None
    by_index = {index: category for category, index in (known or {}).items()}
    if set(by_index) != set(range(count)):
        return list(range(1, count + 1))
    return [by_index[index] for index in range(count)]
