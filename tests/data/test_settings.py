"""The class-imbalanced settings by the paper's rules: what stays labelled, with which boxes, and
that nothing leaks.
"""

import random

import pytest

from ssod.data.class_lists import COCO_TO_OBJECTS365, VOC_CLASSES_IN_COCO
from ssod.data.settings import (
    category_ids,
    choose_minority_images,
    choose_sub_task,
    drop_boxes,
    match_classes,
    random_classes,
    translate,
)
from ssod.data.split_rules import choose_of_all, usable_classes
from ssod.errors import UserError


def make_coco(classes_of_images, categories=4):
    """One 4 x 4 box a class listed; image ids count from 1, category ids from 0."""
    coco = {
        "images": [{"id": i + 1, "file_name": f"{i}.png"} for i in range(len(classes_of_images))],
        "annotations": [],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(categories)],
    }
    for i, classes in enumerate(classes_of_images):
        for k in classes:
            number = len(coco["annotations"]) + 1
            box = {"id": number, "image_id": i + 1, "category_id": k, "bbox": [1, 1, 4, 4]}
            coco["annotations"].append({**box, "area": 16, "iscrowd": 0})
    return coco


def random_coco(images=400, seed=0):
    rng = random.Random(seed)
    return make_coco(
        [rng.choices(range(4), [8, 6, 2, 1], k=rng.randint(1, 4)) for _ in range(images)]
    )


@pytest.mark.parametrize("fold", range(4))
def test_sub_task(fold):
    coco, minority = random_coco(), {2, 3}
    many, few = choose_sub_task(coco, minority, percent=10, min_boxes=10, fold=fold)
    counts = usable_classes(coco)
    with_majority = [i for i, found in counts.items() if found[0] or found[1]]
    assert len(many) == len(with_majority) // 10 and many <= set(with_majority)
    assert not many & few
    for k in minority:
        assert sum(counts[i][k] for i in few) >= 10
    # At most one image a box that is wanted.
    assert len(few) <= 20 and all(counts[i][2] or counts[i][3] for i in few)

    kept = drop_boxes(coco, many, minority)
    left = {}
    for a in kept["annotations"]:
        left.setdefault(a["image_id"], []).append(a["category_id"])
    for image in coco["images"]:
        before = [a["category_id"] for a in coco["annotations"] if a["image_id"] == image["id"]]
        if image["id"] in many:
            assert sorted(left[image["id"]]) == sorted(k for k in before if k < 2)
        else:  # D_s: every instance is annotated; and the truth of the unlabelled is whole
            assert left[image["id"]] == before


def test_sub_task_is_fixed_and_nested():
    coco, minority = random_coco(), {2, 3}
    many, few = choose_sub_task(coco, minority, percent=5, min_boxes=3)
    # Known values: the draw must never change, on any platform.
    assert sorted(few) == [89, 101, 216, 252, 302] and len(many) == 19
    more, again = choose_sub_task(coco, minority, percent=10, min_boxes=3)
    assert many < more and again == few
    shuffled = {**coco, "images": random.Random(1).sample(coco["images"], 400)}
    assert choose_sub_task(shuffled, minority, percent=5, min_boxes=3) == (many, few)


def test_too_few_boxes_name_the_class():
    coco = make_coco([[0, 1]] * 30 + [[2]] * 10 + [[3]] * 9)
    with pytest.raises(UserError, match=r"impossible: .*: c3 \(9\)\."):
        choose_sub_task(coco, {2, 3}, percent=10, min_boxes=10)
    # The majority may have as few as it likes.
    assert len(choose_minority_images(coco, {2}, min_boxes=10)) == 10
    crowd = make_coco([[2]] * 10 + [[0]])
    crowd["annotations"][0]["iscrowd"] = 1
    with pytest.raises(UserError, match=r"c2 \(9\)"):
        choose_minority_images(crowd, {2}, min_boxes=10)


def test_scarce_classes_are_filled_before_the_majority_takes_their_images():
    # Every image with class 3 shows the majority too; all ten are needed, whatever the 90 percent
    # would take.
    coco = make_coco([[0]] * 20 + [[0, 3]] * 10)
    many, few = choose_sub_task(coco, {3}, percent=90, min_boxes=10)
    assert few == set(range(21, 31)) and len(many) == 20


def test_minority_names():
    coco = make_coco([[0]])
    assert category_ids(coco, ["c1", "c3"]) == {1, 3}
    with pytest.raises(UserError, match="no class 'dog'"):
        category_ids(coco, ["c1", "dog"])
    with pytest.raises(UserError, match="names every class"):
        category_ids(coco, ["c0", "c1", "c2", "c3"])
    large = make_coco([[0]], categories=80)
    drawn = random_classes(large, 40, seed=0)
    assert len(drawn) == 40 and drawn == random_classes(large, 40, seed=0)
    assert drawn != random_classes(large, 40, seed=1)
    assert drawn == sorted(drawn, key=lambda name: int(name[1:]))
    with pytest.raises(UserError, match="ask for 1 to 79"):
        random_classes(large, 80, seed=0)


def test_class_lists():
    assert len(set(VOC_CLASSES_IN_COCO)) == 20
    assert len(COCO_TO_OBJECTS365) == 79 and "sports ball" not in COCO_TO_OBJECTS365
    assert set(VOC_CLASSES_IN_COCO) < set(COCO_TO_OBJECTS365)
    assert len({names for names in COCO_TO_OBJECTS365.values()}) == 78
    assert COCO_TO_OBJECTS365["teddy bear"] == COCO_TO_OBJECTS365["bear"] == ("bear",)
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    coco = {c["name"] for c in COCO_CATEGORIES if c["isthing"]}
    assert coco - set(COCO_TO_OBJECTS365) == {"sports ball"}
    assert set(COCO_TO_OBJECTS365) < coco


def test_translation():
    here = [{"id": 1, "name": "tv"}, {"id": 2, "name": "bear"}, {"id": 3, "name": "teddy bear"}]
    here += [{"id": 4, "name": "sports ball"}]
    there = [{"id": 7, "name": "Bear "}, {"id": 8, "name": "Moniter/TV"}, {"id": 9, "name": "Lamp"}]
    class_map = {name: COCO_TO_OBJECTS365[name] for name in ("tv", "bear", "teddy bear")}
    target = match_classes(here, there, class_map, "coco.json")
    assert target == {1: 8, 2: 7, 3: 7}
    coco = make_coco([[1, 4], [4], [2, 3], []])
    coco["categories"] = here
    moved = translate(coco, target, there)
    assert [(a["image_id"], a["category_id"]) for a in moved["annotations"]] == [
        (1, 8),
        (3, 7),
        (3, 7),
    ]
    assert [image["id"] for image in moved["images"]] == [1, 3] and moved["categories"] == there
    with pytest.raises(UserError, match="--coco data have no class 'bear'"):
        match_classes(here, there[1:], class_map, "coco.json")
    with pytest.raises(UserError, match="coco.json has no class 'tv'"):
        match_classes(here[1:], there, class_map, "coco.json")


def test_draw_from_all_images():
    coco = make_coco([[]] * 50)
    drawn = choose_of_all(coco, percent=20)
    assert len(drawn) == 10 and drawn < choose_of_all(coco, percent=40)
    assert drawn != choose_of_all(coco, percent=20, fold=1)
    assert len(choose_of_all(coco, percent=0.1)) == 1
