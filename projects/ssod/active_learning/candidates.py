"""Which images a command of the loop works on."""

from __future__ import annotations

import csv
import logging
import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from detectron2.config import CfgNode

from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.declarations import suggestion
from ssod.data.readings import dataset_records, register_datasets
from ssod.errors import UserError, first_names

logger = logging.getLogger(__name__)
Records = List[Dict[str, Any]]


def image_sets(cfg: CfgNode, names: Sequence[str]) -> CfgNode:
    """A copy of the config whose unlabelled sets are these, where any are named.

    Raises:
        UserError: a set is not declared, or there is none at all.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.PSEUDO_LABELS = ""  # which would leave out images
    if names:
        for name in names:
            if name not in cfg.SSOD.DATASETS:
                raise UserError(
                    f"--dataset {name} is not declared: {suggestion(name, cfg.SSOD.DATASETS)}"
                )
        cfg.DATASETS.UNLABELED = tuple(names)
    if not cfg.DATASETS.UNLABELED:
        raise UserError("DATASETS.UNLABELED is empty: name a set of SSOD.DATASETS with --dataset.")
    return cfg


def same_file(path: str) -> str:
    """Equal for all paths that lead to one file."""
    return os.path.realpath(path)


def unlabelled_images(cfg: CfgNode) -> Tuple[Records, Dict[str, int]]:
    """The images that a label could be made for, each file once.

    Returns:
        The records, and how many were left out because `DATASETS.TRAIN`, `VAL` or `TEST` has them.
    """
    taken: Dict[str, str] = {same_file(row["file_name"]): "TRAIN" for row in load_labeled(cfg)}
    for key, file_name in evaluated_images(cfg):
        taken.setdefault(same_file(file_name), key)
    kept: Records = []
    left_out: Dict[str, int] = {}
    for record in load_unlabeled(cfg):
        file = same_file(record["file_name"])
        if file not in taken:
            taken[file] = ""
            kept.append(record)
        elif taken[file]:
            key = f"DATASETS.{taken[file]}"
            left_out[key] = left_out.get(key, 0) + 1
    if not kept:
        raise UserError(
            f"{', '.join(cfg.DATASETS.UNLABELED)}: all images are labelled already: name another --dataset."
        )
    return kept, left_out


def evaluated_images(cfg: CfgNode) -> Iterable[Tuple[str, str]]:
    """(key, file) of the images of `DATASETS.VAL` and `TEST`; a set that is not here is warned of.

    A label of a test image would make the test worthless.
    """
    register_datasets(cfg)
    for key in ("VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            try:
                files = [record["file_name"] for record in dataset_records(name)]
            except (UserError, KeyError) as error:
                logger.warning(
                    f"DATASETS.{key} {name} cannot be read, its images may be listed: {error}"
                )
                continue
            yield from ((key, file) for file in files)


def listed_images(path: str) -> List[str]:
    """The file names in a list: a table with a column file_name, or one path a line.

    Raises:
        UserError: there is no such file, or no name in it.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in file.read().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a list of images ({error}): name another."
        ) from None
    rows = list(csv.reader(lines))
    if rows and "file_name" in rows[0]:
        column = rows[0].index("file_name")
        names = [row[column] for row in rows[1:] if len(row) > column and row[column]]
    else:
        names = [line.strip() for line in lines]
    if not names:
        raise UserError(f"{path} names no image: write one path a line.")
    return list(dict.fromkeys(names))


class FileFinder:
    """Finds the records that names mean: whole paths, or as much of their end as is needed."""

    def __init__(self, records: Sequence[Dict[str, Any]]) -> None:
        self._whole: Dict[str, int] = {}
        self._by_base: Dict[str, List[int]] = {}
        self._parts: List[List[str]] = []
        for index, record in enumerate(records):
            file = record["file_name"]
            self._whole.setdefault(same_file(file), index)
            self._by_base.setdefault(os.path.basename(file), []).append(index)
            self._parts.append(_parts(os.path.abspath(file)))

    def exact(self, path: str) -> Optional[int]:
        """The record of a path that leads to its file."""
        return self._whole.get(same_file(path))

    def find(self, name: str) -> int:
        """The record's index; -1 where there is none, -2 where several fit equally well.

        Of several files of that name, the one that shares most of the path's last folders is meant.
        """
        whole = self.exact(name)
        if whole is not None:
            return whole
        wanted = _parts(name.replace("\\", "/"))
        found = self._by_base.get(wanted[-1], []) if wanted else []
        if len(found) < 2:
            return found[0] if found else -1
        shared = [_shared_end(wanted, self._parts[index]) for index in found]
        best = max(shared)
        return found[shared.index(best)] if shared.count(best) == 1 else -2


def _parts(path: str) -> List[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _shared_end(first: List[str], second: List[str]) -> int:
    count = 0
    for a, b in zip(reversed(first), reversed(second)):
        if a != b:
            break
        count += 1
    return count


def select_listed(records: Sequence[Dict[str, Any]], path: str) -> Records:
    """The records that a list names, in its order.

    Raises:
        UserError: a name is of no image of the set, or of several.
    """
    finder = FileFinder(records)
    found = {name: finder.find(name) for name in listed_images(path)}
    lost = [name for name, index in found.items() if index < 0]
    if lost:
        raise UserError(
            f"{path} names {len(lost)} images that the image set does not have, or has under several paths: "
            f"{first_names(lost, 3)}. Name the set with --dataset, or correct the list."
        )
    return [records[index] for index in dict.fromkeys(found.values())]
