"""MixUp and Mosaic: pixels, labels, and that they survive bad files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode, Instances

from detections import pseudo_labels
from ssod.data.mapper import TwoViewMapper
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.methods.acrst.mixup_mosaic.method import MixUpMosaic, MixWithLabeled
from ssod.methods.acrst.mixup_mosaic.mixing import (
    MixedLabels,
    Tile,
    clip_boxes,
    cover_tile,
    draw_mosaic,
    mix_labels,
)
from ssod.structures import PseudoLabels, Sample, View, Views
from tiny import make_sample, tiny_cfg

HEIGHT, WIDTH = 40, 60


def labels(boxes: List[List[float]], scores: List[float]) -> Instances:
    return pseudo_labels(scores, boxes=boxes, size=(HEIGHT, WIDTH)).instances[0]


def test_clip_boxes_by_hand() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [4, 4, 6, 6], [5, 0, 25, 10], [20, 20, 30, 30], [3, 3, 3, 9]]
    )
    clipped, share = clip_boxes(boxes, torch.tensor([4.0, 0.0, 10.0, 8.0]))
    assert share.tolist() == pytest.approx([0.48, 1.0, 0.2, 0.0, 0.0])
    assert clipped[:3].tolist() == [[4, 0, 10, 8], [4, 4, 6, 6], [5, 0, 10, 8]]


def test_mosaic_regions_cover_the_image_once() -> None:
    rng = np.random.default_rng(0)
    first = set()
    for height, width in [(40, 60), (2, 2), (3, 50)] * 20:
        regions = draw_mosaic(height, width, (0.3, 0.7), rng)
        count = np.zeros((height, width), int)
        for x0, y0, x1, y1 in regions:
            assert x1 > x0 and y1 > y0
            count[y0:y1, x0:x1] += 1
        assert (count == 1).all()
        first.add((regions[0][0] == 0, regions[0][1] == 0))
    assert len(first) == 4


def test_tiles_meet_within_the_center() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        corners = {x for region in draw_mosaic(40, 60, (0.5, 0.5), rng) for x in region}
        assert corners == {0, 20, 30, 40, 60}
        x1, _ = min(region[2:] for region in draw_mosaic(1000, 1000, (0.1, 0.2), rng))
        assert 100 <= x1 <= 200


@pytest.mark.parametrize("size", [(20, 20), (64, 30), (33, 77), (1, 9)])
def test_tile_boxes_follow_their_pixels(size: tuple[int, int]) -> None:
    """A white rectangle is found where its box says, whatever the window."""
    image = np.zeros((50, 40, 3), np.uint8)
    image[10:30, 5:35] = 255
    whole = Tile(image, np.array([[5.0, 10.0, 35.0, 30.0]]), np.array([3]))
    for seed in range(20):
        tile = cover_tile(whole, *size, np.random.default_rng(seed), 0.0)
        assert tile.image.shape == (*size, 3)
        white = np.argwhere(tile.image[:, :, 0] > 127)
        if not len(tile.boxes):
            assert len(white) == 0 or size == (1, 9)
            continue
        x0, y0, x1, y1 = tile.boxes[0]
        assert (
            tile.classes.tolist() == [3] and 0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]
        )
        if len(white):
            low, high = white.min(axis=0), white.max(axis=0) + 1
            assert np.abs(np.array([y0, x0, y1, x1]) - [*low, *high]).max() <= 1.0


def test_small_remainders_lose_their_label() -> None:
    image = np.zeros((10, 100, 3), np.uint8)
    whole = Tile(image, np.array([[0.0, 0.0, 100.0, 10.0]]), np.array([0]))
    rng = np.random.default_rng(0)
    assert len(cover_tile(whole, 10, 20, rng, 0.25).boxes) == 0  # a fifth is left
    assert len(cover_tile(whole, 10, 20, rng, 0.15).boxes) == 1


def test_labels_of_a_mosaic_by_hand() -> None:
    row = labels([[0, 0, 20, 20], [10, 0, 50, 20], [40, 20, 50, 30]], [0.9, 0.8, 0.7])
    row.tier = torch.tensor([7, 8, 9])
    row.selected = torch.tensor([False, True, True])
    mixed = MixedLabels(
        boxes=torch.tensor([[30.0, 30, 40, 40]]),
        classes=torch.tensor([5]),
        weight=1.0,
        own_region=torch.tensor([0.0, 0.0, 22.0, 40.0]),
        own_weight=1.0,
    )
    found = mix_labels(row, mixed, 0.25)
    assert found.gt_boxes.tensor.tolist() == [[0, 0, 20, 20], [10, 0, 22, 20], [30, 30, 40, 40]]
    assert found.gt_classes.tolist() == [0, 1, 5]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 1.0])
    assert found.selected.tolist() == [False, True, True]
    assert found.roi_reg_weight.tolist() == [0.0, 0.0, 1.0]  # human labels regress
    assert found.roi_cls_weight.tolist() == [1.0, 1.0, 1.0]
    assert found.tier.tolist() == [7, 8, 0]
    assert row.gt_boxes.tensor[1].tolist() == [10, 0, 50, 20]  # what was given stays


@pytest.mark.parametrize("own, new", [(0, 2), (2, 0), (0, 0)])
def test_labels_weigh_as_much_as_the_image_shows(own: int, new: int) -> None:
    row = labels([[0.0, 0, 20, 20]] * own, [0.9] * own)
    mixed = MixedLabels(
        torch.tensor([[1.0, 1, 5, 5]] * new).reshape(-1, 4),
        torch.zeros(new, dtype=torch.long),
        0.25,
        torch.tensor([0.0, 0.0, WIDTH, HEIGHT]),
        0.75,
    )
    found = mix_labels(row, mixed, 0.25)
    assert found.rpn_cls_weight.tolist() == [0.75] * own + [0.25] * new
    assert found.rpn_reg_weight.tolist() == [0.0] * own + [0.25] * new
    target = PseudoLabels([found]).to_targets()[0]
    assert target.gt_roi_cls_weight.tolist() == [0.75] * own + [0.25] * new


def write_records(folder: Path, count: int = 3) -> List[Dict[str, Any]]:
    """Grey images with one white rectangle each, of class 1."""
    records = []
    for index in range(count):
        image = np.full((30, 30, 3), 100, np.uint8)
        image[5:20, 8:24] = 255
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), image)
        box = {"bbox": [8, 5, 16, 15], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
        records.append({"file_name": str(path), "annotations": [box, {**box, "iscrowd": 1}]})
    return records


def transform(records: List[Dict[str, Any]], mosaic: float, flip: bool = False) -> MixWithLabeled:
    return MixWithLabeled(
        "MixUpMosaic",
        records,
        image_format="BGR",
        strong=None,
        flip=flip,
        mosaic_prob=mosaic,
        mosaic_center=(0.3, 0.7),
        mixup_prob=1.0,
        alpha=1.5,
        min_visible=0.25,
    )


def sample_of_zeros(labeled: bool = False) -> Sample:
    sample = make_sample(0, labeled, (HEIGHT, WIDTH))
    return replace(sample, strong=torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8))


@pytest.mark.parametrize("flip", [False, True])
def test_mosaic_keeps_the_image_in_its_place(tmp_path: Path, flip: bool) -> None:
    mix = pickle.loads(pickle.dumps(transform(write_records(tmp_path), 1.0, flip)))
    for seed in range(10):
        given = sample_of_zeros()
        made = mix(given, np.random.default_rng(seed), None)
        mixed = made.extras["MixUpMosaic"]
        x0, y0, x1, y1 = (int(v) for v in mixed.own_region)
        grey = made.strong[0].clone()
        assert (grey[y0:y1, x0:x1] == 0).all()
        grey[y0:y1, x0:x1] = 100
        assert (grey >= 99).all()
        for bx0, by0, bx1, by1 in mixed.boxes.round().int().tolist():
            assert (grey[by0 + 1 : by1 - 1, bx0 + 1 : bx1 - 1] > 200).all()
        assert len(mixed.boxes) and (mixed.classes == 1).all()
        assert mixed.weight == mixed.own_weight == 1.0
        assert torch.equal(made.weak, given.weak) and (given.strong == 0).all()


def test_mixup_blends(tmp_path: Path) -> None:
    made = transform(write_records(tmp_path), 0.0)(
        sample_of_zeros(), np.random.default_rng(0), None
    )
    mixed = made.extras["MixUpMosaic"]
    assert mixed.own_weight + mixed.weight == pytest.approx(1.0)
    assert 0.0 < mixed.weight < 1.0
    assert int(made.strong.min()) == round(100 * mixed.weight)
    assert int(made.strong.max()) == round(255 * mixed.weight)
    assert mixed.own_region.tolist() == [0, 0, WIDTH, HEIGHT]


def test_labeled_images_stay_and_draws_repeat(tmp_path: Path) -> None:
    mix = transform(write_records(tmp_path), 0.5)
    labeled = sample_of_zeros(labeled=True)
    assert mix(labeled, np.random.default_rng(0), None) is labeled
    first, second = (mix(sample_of_zeros(), np.random.default_rng(4), None) for _ in range(2))
    assert torch.equal(first.strong, second.strong)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_unreadable_files_are_listed(tmp_path: Path, mosaic: float) -> None:
    records = write_records(tmp_path)
    Path(records[0]["file_name"]).write_bytes(b"no image")
    made = transform(records[:1], mosaic)(sample_of_zeros(), np.random.default_rng(0), None)
    assert not made.extras and (made.strong == 0).all()
    assert {name for name, _ in made.skipped} == {records[0]["file_name"]}
    found = [
        transform(records, mosaic)(sample_of_zeros(), np.random.default_rng(seed), None)
        for seed in range(8)
    ]
    assert all(sample.extras for sample in found) and any(sample.skipped for sample in found)


def test_tiny_views_and_images_without_boxes(tmp_path: Path) -> None:
    records = write_records(tmp_path, 1)
    records[0]["annotations"] = []
    pixel = replace(sample_of_zeros(), strong=torch.zeros(3, 1, 5, dtype=torch.uint8))
    made = transform(records, 1.0)(pixel, np.random.default_rng(0), None)
    assert made.extras["MixUpMosaic"].boxes.shape == (0, 4)
    assert made.strong.shape == (3, 1, 5) and int(made.strong.max()) > 0


@pytest.mark.parametrize(
    "key, value",
    [
        ("MOSAIC_PROB", 3.0),
        ("MIXUP_PROB", -1.0),
        ("MIN_VISIBLE_FRACTION", 2.0),
        ("MIXUP_ALPHA", 0.0),
        ("MOSAIC_CENTER", (0.7, 0.3)),
        ("MOSAIC_CENTER", (0.5,)),
        ("MOSAIC_CENTER", (0.5, 1.5)),
    ],
)
def test_bad_values_are_refused(key: str, value: Any) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("ScoreThreshold", "MixUpMosaic")
    cfg.SSOD.MIXUP_MOSAIC[key] = value
    with pytest.raises(UserError, match=f"SSOD.MIXUP_MOSAIC.{key}"):
        build_methods(cfg)


def test_views_phase_replaces_the_labels(tmp_path: Path, storage: Any) -> None:
    method = MixUpMosaic(
        mosaic_prob=1.0,
        mosaic_center=(0.3, 0.7),
        mixup_prob=1.0,
        mixup_alpha=1.5,
        min_visible=0.25,
        image_format="BGR",
        strong=None,
        flip=False,
    )
    method.name = "MixUpMosaic"
    assert method.view_transform() is None
    mixed = transform(write_records(tmp_path), 1.0)(
        sample_of_zeros(), np.random.default_rng(0), None
    )
    plain = sample_of_zeros()
    empty = labels([], [])
    view = View([mixed.strong, plain.strong], [], PseudoLabels([empty, empty]))

    class Context:
        class batch:
            unlabeled = [mixed, plain]

    views = method.views(Views(View([], []), view), PseudoLabels([empty, empty]), Context())  # type: ignore[arg-type]
    assert views.unlabeled is not None and views.unlabeled.pseudo is not None
    counts = [len(row) for row in views.unlabeled.pseudo.instances]
    assert counts == [len(mixed.extras["MixUpMosaic"].boxes), 0] and counts[0] > 0
    assert storage.latest()["mixup_mosaic/mixed_in_boxes_per_image"][0] == counts[0] / 2
    assert len(view.pseudo.instances[0]) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("enabled, color_only", [(True, False), (True, True), (False, False)])
def test_strong_augmentation_is_the_mappers(enabled: bool, color_only: bool) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("ScoreThreshold", "MixUpMosaic")
    node = cfg.SSOD.STRONG_AUGMENTATION
    node.ENABLED, node.COLOR_ONLY, node.NOISE_SIGMA = enabled, color_only, 3.0
    own: Any = build_methods(cfg)["MixUpMosaic"].strong
    of_mapper = TwoViewMapper.from_config(cfg, seed=0).strong
    assert (own is None) == (of_mapper is None) == (not enabled)
    if enabled:
        assert vars(own) == vars(of_mapper) == {"noise_sigma": 3.0, "color_only": color_only}
