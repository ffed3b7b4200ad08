"""AP of groups of classes: majority and minority (CI-SSOD, section 4), frequent, common and rare
(LVIS).

A test set's declaration names a labelled set (GROUPS), whose file defines the groups. A class is
frequent if more than 100 of its images show it, common if 11 to 100 do, and rare otherwise. The
majority and the minority are those that `make_splits --minority` noted in the file. A group's AP is
the mean over its classes, in percent.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssod.data.coco_content import read_coco
from ssod.data.json_file import object_under
from ssod.data.split_rules import usable_classes
from ssod.errors import UserError
from ssod.evaluation.coco import FastCOCOEvaluator, per_class_ap

COMMON_ABOVE, FREQUENT_ABOVE = 10, 100  # images
# metric -> indices of its classes
Groups = Dict[str, Tuple[int, ...]]


def frequency_groups(image_counts: Sequence[int]) -> Groups:
    """APf, APc and APr, without the groups that have no class.

    `image_counts[k]`: labelled images that show class k.

    Example:
        >>> frequency_groups([5, 50, 500])
        {'APf': (2,), 'APc': (1,), 'APr': (0,)}
    """
    names = [
        "APf" if n > FREQUENT_ABOVE else "APc" if n > COMMON_ABOVE else "APr" for n in image_counts
    ]
    return _by_name(names, ("APf", "APc", "APr"))


def _by_name(names: Sequence[str], order: Sequence[str]) -> Groups:
    found = {group: tuple(i for i, name in enumerate(names) if name == group) for group in order}
    return {group: members for group, members in found.items() if members}


def group_means(values: Sequence[float], groups: Mapping[str, Sequence[int]]) -> Dict[str, float]:
    """The mean of each group over its classes with ground truth; NaN if there is none.

    Example:
        >>> group_means([10.0, 30.0, float("nan")], {"rare": [0, 2], "common": [1]})
        {'rare': 10.0, 'common': 30.0}
    """
    means = {}
    for name, members in groups.items():
        found = [values[i] for i in members if not np.isnan(values[i])]
        means[name] = float(np.mean(found)) if found else float("nan")
    return means


def read_groups(path: str, classes: Sequence[str]) -> Groups:
    """The groups of a labelled set in COCO format.

    Args:
        classes: of the test set, by index.

    Raises:
        UserError: the file is broken, or lacks some of these classes.
    """
    return dict(
        _read_groups(path, os.path.getmtime(path) if os.path.exists(path) else 0.0, tuple(classes))
    )


# Cached, because evaluations are frequent and a labelled set may have a million boxes.
@lru_cache(maxsize=16)
def _read_groups(path: str, modified: float, classes: Tuple[str, ...]) -> Groups:
    content = read_coco(path, ("images", "annotations", "categories"))
    ids = {category["name"]: category["id"] for category in content["categories"]}
    missing = [name for name in classes if name not in ids]
    if missing:
        raise UserError(
            f"{path}, named by GROUPS, has no class {', '.join(missing[:5])}: name a labelled set with the test set's classes."
        )
    images: Counter = Counter()
    for found in usable_classes(content).values():
        images.update(found.keys())
    groups = frequency_groups([images[ids[name]] for name in classes])
    minority = object_under(object_under(content, "info"), "ssod_split").get("minority")
    if isinstance(minority, list):
        names = ["AP-minority" if name in minority else "AP-majority" for name in classes]
        groups = {**_by_name(names, ("AP-majority", "AP-minority")), **groups}
    return groups


class GroupCOCOEvaluator(FastCOCOEvaluator):
    """COCO's metrics and those of the groups that the dataset's `groups_file` describes."""

    def derive_results(
        self, coco_eval: Any, class_names: Optional[Sequence[str]]
    ) -> Dict[str, float]:
        results = super().derive_results(coco_eval, class_names)
        groups = read_groups(self._metadata.groups_file, class_names or ())
        means = group_means(per_class_ap(coco_eval), groups)
        # Before the single classes, as the report lists them.
        overall = {key: value for key, value in results.items() if not key.startswith("AP-")}
        return {**overall, **means, **results}
