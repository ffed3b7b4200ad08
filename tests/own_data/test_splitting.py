"""The division of images into training and validation."""

from __future__ import annotations

from typing import List, Optional, Sequence

import pytest

from ssod.data.formats.annotated import ImageLabels, LabelledBox
from ssod.errors import UserError
from ssod.own_data.collection import Collection
from ssod.own_data.splitting import divide


def photo(name: str, labels: Optional[Sequence[int]], split: str = "") -> ImageLabels:
    boxes = (
        None if labels is None else [LabelledBox("abc"[label], (0, 0, 5, 5)) for label in labels]
    )
    return ImageLabels(name, boxes, (10, 10), split)


def collection(photos: List[ImageLabels]) -> Collection:
    return Collection("folder", ["a", "b", "c"], photos, ["coco"])


def names(photos: Sequence[ImageLabels]) -> List[str]:
    return [p.path for p in photos]


def test_drawn() -> None:
    photos = [photo(f"{i:02d}", [i % 2]) for i in range(20)]
    photos += [photo("rare", [2, 0]), photo("empty", []), photo("unseen", None)]
    parts = divide(collection(photos), percent=20, seed=0)
    assert len(parts.val) == 4 and len(parts.train) == 18 and parts.drawn
    assert {box.label for p in parts.val for box in p.boxes or ()} == {"a", "b"}
    assert "rare" in names(parts.train)  # it holds the only box of its class
    assert "empty" in names(parts.train)
    assert names(parts.unlabelled) == ["unseen"]
    again = divide(collection(photos[::-1]), percent=20, seed=0)
    assert names(again.val) == names(parts.val)
    assert names(divide(collection(photos), percent=20, seed=1).val) != names(parts.val)


def test_val_shows_every_class_that_it_can() -> None:
    photos = [photo(f"{i:02d}", [0]) for i in range(30)] + [photo("x", [1]), photo("y", [1])]
    parts = divide(collection(photos), percent=10, seed=0)
    assert {box.label for p in parts.val for box in p.boxes or ()} == {"a", "b"}
    assert len(parts.val) == 3


def test_named_splits_are_kept() -> None:
    photos = [photo("a", [0], "train"), photo("b", [0], "val"), photo("c", [1], "test")]
    photos += [photo("d", None, "val"), photo("e", None, "train"), photo("f", None)]
    parts = divide(collection(photos), percent=20, seed=0)
    assert (names(parts.train), names(parts.val), names(parts.test)) == (["a"], ["b"], ["c"])
    assert names(parts.unlabelled) == ["e", "f"]  # d belongs to the validation set
    assert not parts.drawn


def test_unreadable_images_take_no_part() -> None:
    photos = [photo("a", [0]), photo("b", [0]), photo("c", [0]), photo("d", None)]
    photos[0].size = photos[3].size = None
    parts = divide(collection(photos), percent=20, seed=0)
    assert sorted(names(parts.train) + names(parts.val)) == ["b", "c"]
    assert parts.unlabelled == []


def test_two_images_of_different_classes() -> None:
    parts = divide(collection([photo("a", [0]), photo("b", [1])]), percent=20, seed=0)
    assert len(parts.train) == len(parts.val) == 1


@pytest.mark.parametrize("labels", [[], [[0]], [[0], []]])
def test_too_few_labels(labels: List[List[int]]) -> None:
    photos = [photo(str(i), found) for i, found in enumerate(labels)]
    with pytest.raises(UserError, match="label at least two"):
        divide(collection(photos), percent=20, seed=0)
