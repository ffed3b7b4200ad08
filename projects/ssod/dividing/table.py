"""Prints how many images and boxes each split has."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Set

from ssod.dividing.draws import Split


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
