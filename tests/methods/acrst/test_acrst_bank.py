"""The bank: order, replacement, compaction, state; boxes in original coordinates whatever the view
did.
"""

from __future__ import annotations

import logging
from typing import Dict, List, Tuple

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from detections import pseudo_labels
from ssod.data.mapper import affine_matrix
from ssod.methods.acrst.crop_bank.bank import (
    Instances,
    PseudoBank,
    labeled_instances,
    pack_batch,
    pack_labels,
)
from ssod.structures import Geometry, PseudoLabels
from tiny import make_sample

Label = Tuple[int, float, Tuple[float, ...]]


def packed(image: int, labels: List[Label], size: Tuple[int, int] = (50, 60)) -> np.ndarray:
    boxes = np.array([box for _, _, box in labels], dtype=np.float64).reshape(-1, 4)
    classes = np.array([label for label, _, _ in labels])
    return pack_labels(image, size, boxes, classes, np.array([score for _, score, _ in labels]))


def content(bank: PseudoBank) -> Dict[int, List[Label]]:
    """Labels by image."""
    found: Dict[int, List[Label]] = {}
    published = bank.instances()
    for label in range(bank.num_classes):
        for row in range(published.offsets[label], published.offsets[label + 1]):
            box = tuple(published.boxes[row].tolist())
            found.setdefault(int(published.images[row]), []).append(
                (label, float(published.scores[row]), box)
            )
    return found


def test_the_latest_labels_of_an_image_replace_the_former() -> None:
    bank = PseudoBank(4, 3)
    bank.replace(packed(2, [(1, 0.5, (1, 2, 3, 4)), (0, 0.25, (5, 6, 7, 8))]))
    bank.replace(np.concatenate([packed(0, []), packed(3, [(1, 1.0, (0, 0, 9, 9))])]))
    assert bank.visited == 3 and bank.class_counts.tolist() == [1, 2, 0]
    bank.replace(packed(2, [(2, 0.75, (1, 1, 2, 2))]))
    assert bank.visited == 3 and bank.class_counts.tolist() == [0, 1, 1]
    assert content(bank) == {3: [(1, 1.0, (0, 0, 9, 9))], 2: [(2, 0.75, (1, 1, 2, 2))]}
    published = bank.instances()
    assert published.offsets.tolist() == [0, 0, 1, 2] and published.sizes.tolist() == [[50, 60]] * 2
    # If a step has two entries of one image, the later counts.
    bank.replace(
        np.concatenate([packed(3, []), packed(3, [(0, 0.5, (1, 1, 2, 2))]), packed(3, [])])
    )
    assert content(bank) == {2: [(2, 0.75, (1, 1, 2, 2))]}


def test_bank_equals_a_dictionary_and_survives_its_state() -> None:
    rng = np.random.default_rng(0)
    bank, plain = PseudoBank(40, 5), {}
    for step in range(300):
        image = int(rng.integers(40))
        labels = [
            (
                int(rng.integers(5)),
                float(np.float32(rng.random())),
                tuple(map(float, rng.integers(0, 50, 4))),
            )
            for _ in range(int(rng.integers(0, 30)))
        ]
        bank.replace(packed(image, labels, (50, 60 + image)))
        plain[image] = labels
        if step % 50 == 20:  # resumes; what follows must not differ
            other = PseudoBank(40, 5)
            other.load(bank.state())
            assert (other.state() == bank.state()).all()
            for name, array in bank.instances().arrays().items():
                assert (array == other.instances().arrays()[name]).all(), name
            bank = other
    expected = {i: sorted(labels, key=lambda row: row[0]) for i, labels in plain.items() if labels}
    found = content(bank)
    assert {i: found[i] for i in sorted(found)} == {i: expected[i] for i in sorted(expected)}
    assert bank.visited == len(plain)
    assert set(bank.instances().sizes[:, 1] - bank.instances().images) == {60}


def test_compaction_keeps_the_order_of_arrival() -> None:
    grown, fresh = PseudoBank(3, 1), PseudoBank(3, 1)
    for step in range(2000):  # many times the capacity
        grown.replace(packed(step % 2, [(0, 0.5, (0, 0, step + 1, 1))]))
    for step in (1998, 1999):
        fresh.replace(packed(step % 2, [(0, 0.5, (0, 0, step + 1, 1))]))
    assert (grown.state() == fresh.state()).all()
    assert len(grown._images) == 1024


def test_labelled_bank_skips_and_lists(caplog: pytest.LogCaptureFixture) -> None:
    def note(box: List[float], label: int, **more: int) -> dict:
        return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": label, **more}

    records = [
        {"file_name": "a.jpg", "height": 20, "width": 30, "annotations": [note([1, 2, 3, 4], 2)]},
        {"file_name": "empty.jpg", "height": 20, "width": 30, "annotations": []},
        {
            "file_name": "b.jpg",
            "height": 9,
            "width": 8,
            "annotations": [
                note([0, 0, 5, 0], 1),
                note([0, 0, 2, 2], 0),
                note([0, 0, 5, 5], 1, iscrowd=1),
            ],
        },
    ]
    with caplog.at_level(logging.WARNING):
        found = labeled_instances(records, 4)
    assert "b.jpg" in caplog.text and "1 no area" in caplog.text
    assert found.counts.tolist() == [1, 0, 1, 0] and found.images.tolist() == [2, 0]
    assert found.boxes.tolist() == [[0, 0, 2, 2], [1, 2, 4, 6]]
    assert found.sizes.tolist() == [[9, 8], [20, 30]] and found.scores.tolist() == [1, 1]
    again = Instances.from_arrays(found.arrays())
    assert (again.boxes == found.boxes).all()
    assert labeled_instances([], 4).counts.tolist() == [0] * 4


@pytest.mark.parametrize("seed", range(20))
def test_on_visit_boxes_are_in_original_coordinates(seed: int) -> None:
    """Random crop, resize and flip: the bank's box is the original one, as far as the view shows
    it.
    """
    rng = np.random.default_rng(seed)
    np.random.seed(seed)
    height, width = (int(v) for v in rng.integers(60, 140, 2))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    moved = T.AugInput(image)
    transforms = T.AugmentationList(
        [
            T.RandomCrop("relative_range", (0.5, 0.5)),
            T.ResizeShortestEdge(int(rng.integers(30, 200)), 400),
            T.RandomFlip(0.5),
        ]
    )(moved)
    corners = rng.uniform(0.05, 0.95, (6, 2, 2)) * [width, height]
    original = np.sort(corners, axis=1).reshape(6, 4)
    view = moved.image.shape[:2]
    boxes = transforms.apply_box(original.copy()).clip(0, [view[1], view[0]] * 2)

    sample = make_sample(0, labeled=False)
    sample.geometry = Geometry(affine_matrix(transforms, height, width), (height, width))
    pseudo = labels(boxes, view)
    rows = pack_batch(pseudo, [sample])
    assert rows[0, 1:4].tolist() == [-1, height, width] and (rows[:, 0] == sample.ref.index).all()

    crop = transforms.transforms[0]
    frame = np.array([crop.x0, crop.y0, crop.x0 + crop.w, crop.y0 + crop.h])
    visible = np.concatenate(
        [np.maximum(original[:, :2], frame[:2]), np.minimum(original[:, 2:], frame[2:])], axis=1
    )
    kept = (visible[:, 2:] > visible[:, :2]).all(axis=1)
    assert rows[1:, 3:] == pytest.approx(visible[kept], abs=0.02)


def labels(boxes: np.ndarray, view: Tuple[int, int]) -> PseudoLabels:
    """Boxes of a view (height, width) with scores of 0.5 to 0.9."""
    return pseudo_labels(np.linspace(0.5, 0.9, len(boxes)), boxes=boxes, size=view)


def test_only_selected_labels_enter() -> None:
    sample = make_sample(7, labeled=False)
    boxes = np.array([[1.0, 2, 30, 40], [5, 5, 9, 9]])
    pseudo = labels(boxes, (64, 64))
    rows = pack_batch(pseudo.select([torch.tensor([False, True])]), [sample])
    assert rows.tolist() == [
        [7, -1, 64, 64, 0, 0, 0],
        [7, 1, pytest.approx(0.9), 5, 5, 9, 9],
    ]
    none = labels(boxes[:0], (64, 64))
    assert pack_batch(none, [sample]).tolist() == [[7, -1, 64, 64, 0, 0, 0]]
