"""Settings with majority and minority classes (CI-SSOD, section 4.1), as pure functions on
COCO-format dicts.

The labelled set is D_m and D_s together. D_m has boxes of majority classes only. Its minority boxes
are dropped. D_s is small and has all boxes of its images. Images are drawn as in `split_rules`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Dict, List, Sequence, Set, Tuple

from ssod.data.split_rules import Coco, fill_classes, shuffled_ids, usable_classes
from ssod.errors import UserError


def choose_sub_task(
    coco: Coco, minority: Set[Any], *, percent: float, min_boxes: int, seed: int = 0, fold: int = 0
) -> Tuple[Set[Any], Set[Any]]:
    """The image ids of D_m and of D_s. They have no image in common.

    D_s is drawn first. So it exists whenever the data have the boxes, and it is the same for all
    percentages.

    Args:
        minority: category ids.
        percent: D_m's share of the images with at least one usable box of a majority class, rounded
            down.
        min_boxes: D_s has at least this many boxes of every minority class, in no more images than
            the draw needs.

    Raises:
        UserError: a minority class has fewer boxes.
    """
    counts = usable_classes(coco)
    order = [image for image in shuffled_ids(coco, seed, fold) if image in counts]
    few = set(fill_classes(coco, order, counts, min_boxes, minority))
    with_majority = [image for image in order if not minority.issuperset(counts[image])]
    target = max(1, int(len(with_majority) * percent / 100 + 1e-9))
    return set([image for image in with_majority if image not in few][:target]), few


def choose_minority_images(
    coco: Coco, minority: Set[Any], *, min_boxes: int, seed: int = 0, fold: int = 0
) -> Set[Any]:
    """The image ids of D_s alone. Arguments and errors are those of `choose_sub_task`."""
    counts = usable_classes(coco)
    order = [image for image in shuffled_ids(coco, seed, fold) if image in counts]
    return set(fill_classes(coco, order, counts, min_boxes, minority))


def drop_boxes(coco: Coco, images: Set[Any], categories: Set[Any]) -> Coco:
    """The dataset without the annotations (crowds too) of some categories in some images."""
    kept = [
        a
        for a in coco["annotations"]
        if a["image_id"] not in images or a["category_id"] not in categories
    ]
    return {**coco, "annotations": kept}


def category_ids(coco: Coco, names: Sequence[str]) -> Set[Any]:
    """Ids of the categories with the given names.

    Raises:
        UserError: a category does not exist, or all categories are named.
    """
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise UserError(
            f"--minority: the data have no class {', '.join(map(repr, unknown))}: name classes of theirs."
        )
    if len(set(names)) == len(ids):
        raise UserError("--minority names every class: leave some for the majority.")
    return {ids[name] for name in names}


def random_classes(coco: Coco, number: int, seed: int) -> List[str]:
    """The names of `number` categories, drawn by seed and name alone, in the order of their ids."""
    names = [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]
    if not 0 < number < len(names):
        raise UserError(
            f"--random-minority {number}: the data have {len(names)} classes: ask for 1 to {len(names) - 1}."
        )
    drawn = sorted(names, key=lambda n: hashlib.sha256(f"{seed}/{n}".encode()).hexdigest())[:number]
    return [name for name in names if name in drawn]


def match_classes(
    here: List[Dict[str, Any]],
    there: List[Dict[str, Any]],
    class_map: Dict[str, Tuple[str, ...]],
    source: str,
) -> Dict[Any, Any]:
    """Category ids of one dataset -> those of another.

    Args:
        here, there: the categories of both.
        class_map: name here -> possible names there. Case does not matter in the comparison.
        source: the file of `here`, for messages.

    Raises:
        UserError: a class of the map is missing on either side.
    """
    ids_here, ids_there = (
        {c["name"].strip().lower(): c["id"] for c in categories} for categories in (here, there)
    )
    target: Dict[Any, Any] = {}
    for name, choices in class_map.items():
        found = [ids_there[choice] for choice in choices if choice in ids_there]
        if name not in ids_here or not found:
            wrong = f"{source} has no class {name!r}" if name not in ids_here else ""
            wrong = wrong or f"the --coco data have no class {' or '.join(map(repr, choices))}"
            raise UserError(
                f"{wrong}, which the class map names: use COCO and Objects365, or rename theirs."
            )
        target[ids_here[name]] = found[0]
    return target


def translate(coco: Coco, target: Dict[Any, Any], categories: List[Dict[str, Any]]) -> Coco:
    """The dataset in other categories. Boxes without a category in `target` are dropped, and so are
    images that have no box then.
    """
    annotations = [
        {**a, "category_id": target[a["category_id"]]}
        for a in coco["annotations"]
        if a["category_id"] in target
    ]
    left = usable_classes({**coco, "annotations": annotations})
    return {
        "images": [image for image in coco["images"] if image["id"] in left],
        "annotations": [a for a in annotations if a["image_id"] in left],
        "categories": categories,
    }
