"""Chooses the images of a labelled dataset that keep their labels, from COCO-format dicts.

The draws depend only on the seed, the fold and the image's file name, by sha256. They do not depend
on the order of the file, the platform or Python's version. Within a fold the smaller percentages
are subsets of the larger ones. A rule is a function that returns the ids of the images that stay
labelled.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from math import isfinite
from typing import Any, Dict, List, Optional, Sequence, Set

from ssod.data.boxes import box_problem
from ssod.data.coco_content import corners
from ssod.errors import UserError

Coco = Dict[str, Any]


def usable_classes(coco: Coco) -> Dict[Any, Counter]:
    """image id -> number of usable boxes of each category id, without crowds. Images without any
    are left out.
    """
    counts: Dict[Any, Counter] = {}
    for annotation in coco["annotations"]:
        box = annotation.get("bbox")
        if annotation.get("iscrowd", 0) or not corners(box):
            continue
        x, y, width, height = box
        # Nearly all boxes pass this quick test, so the full check is seldom needed.
        plain = min(x, y) >= 0 and min(width, height) > 1e-3 and isfinite(x + y + width + height)
        if not plain and box_problem([x, y, x + width, y + height], None, None):
            continue
        counts.setdefault(annotation["image_id"], Counter())[annotation["category_id"]] += 1
    return counts


def shuffled_ids(coco: Coco, seed: int, fold: int) -> List[Any]:
    """All image ids in the random order of one fold."""

    def key(image: Dict[str, Any]) -> str:
        return hashlib.sha256(f"{seed}/{fold}/{image['file_name']}".encode()).hexdigest()

    return [image["id"] for image in sorted(coco["images"], key=key)]


def choose(
    coco: Coco,
    *,
    percent: Optional[float] = None,
    min_boxes: int = 0,
    seed: int = 0,
    fold: int = 0,
) -> Set[Any]:
    """Draws the ids of the images that stay labelled, among those with at least one usable box.

    Args:
        percent: share of the images with usable boxes, rounded down, at least one image (so 1 % of
            COCO's 117,266 is 1,172). None: no more images than `min_boxes` needs.
        min_boxes: images come first if they have a class of which fewer than this many boxes have
            been drawn.

    Raises:
        UserError: a class has too few boxes, or `min_boxes` needs more images than `percent`
            allows.
    """
    counts = usable_classes(coco)
    order = [image for image in shuffled_ids(coco, seed, fold) if image in counts]
    chosen = fill_classes(coco, order, counts, min_boxes)
    if percent is not None:
        target = max(1, int(len(order) * percent / 100 + 1e-9))
        if len(chosen) > target:
            raise UserError(
                f"--min-boxes-per-class {min_boxes} takes {len(chosen)} images, {percent:g} percent are {target}: "
                "raise the percentage or lower the boxes."
            )
        taken = set(chosen)
        chosen += [image for image in order if image not in taken][: target - len(chosen)]
    return set(chosen)


def choose_of_all(coco: Coco, *, percent: float, seed: int = 0, fold: int = 0) -> Set[Any]:
    """The ids of `percent` of all images, rounded down, at least one. It is for images that have no
    labels.
    """
    order = shuffled_ids(coco, seed, fold)
    return set(order[: max(1, int(len(order) * percent / 100 + 1e-9))])


def fill_classes(
    coco: Coco,
    order: Sequence[Any],
    counts: Dict[Any, Counter],
    wanted: int,
    categories: Optional[Set[Any]] = None,
) -> List[Any]:
    """Goes through the images and takes those with a class of which fewer than `wanted` boxes have
    been taken.

    Args:
        order: image ids. counts: the result of `usable_classes`.
        categories: ids of the classes to fill. None: all.

    Raises:
        UserError: a class has fewer boxes than wanted.
    """
    if wanted <= 0:
        return []
    totals: Counter = Counter()
    for found in counts.values():
        totals.update(found)
    names = {
        category["id"]: category["name"]
        for category in coco["categories"]
        if categories is None or category["id"] in categories
    }
    poor = [f"{names[c]} ({totals[c]})" for c in names if totals[c] < wanted]
    if poor:
        raise UserError(
            f"--min-boxes-per-class {wanted} is impossible: these classes have fewer boxes: {', '.join(poor)}. Use a smaller number."
        )
    have: Counter = Counter()
    chosen = []
    for image in order:
        if any(category in names and have[category] < wanted for category in counts[image]):
            chosen.append(image)
            have.update(counts[image])
    return chosen


def choose_by_index(coco: Coco, indices: Sequence[int], percent: float, source: str) -> Set[Any]:
    """The ids of the images that Unbiased Teacher's seed file lists.

    Its indices count through Detectron2's list of the training images: ordered by image id, without
    the images that have no boxes other than crowd boxes.

    Args:
        indices: one draw of the file, made for `percent` of the images, rounded down.
        source: the file's name, for messages.
    """
    with_boxes = {a["image_id"] for a in coco["annotations"] if not a.get("iscrowd", 0)}
    listed = sorted(image["id"] for image in coco["images"] if image["id"] in with_boxes)
    expected = int(percent / 100 * len(listed) + 1e-9)
    if len(set(indices)) != expected or max(indices, default=0) >= len(listed):
        raise UserError(
            f"{source} does not belong to this dataset: it draws {len(set(indices))} images for {percent:g} percent, "
            f"which would be {expected} of {len(listed)}; use the dataset it was made for."
        )
    return {listed[i] for i in indices}
