"""MixPL: mixed images and their labels, on pictures that can be imagined."""

from __future__ import annotations

from typing import Any, Tuple

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ssod.errors import UserError
from ssod.methods.mixpl import MixPL
from ssod.methods.mixpl.mixing import mixup, mosaic, placed
from ssod.structures import PseudoLabels, make_targets
from steps import batch, cfg_with, core_of


def labelled(value: int, size: Tuple[int, int], *boxes: Any) -> Tuple[Tensor, Instances]:
    """An image of one value, with boxes whose classes are their places."""
    image = torch.full((3, *size), value, dtype=torch.uint8)
    return image, make_targets(
        size, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes))
    )


def test_mixup_is_the_mean_and_has_all_labels() -> None:
    first = labelled(100, (8, 8), [0, 0, 4, 4], [2, 2, 8, 8])
    image, labels = mixup(first, labelled(200, (8, 8), [1, 1, 5, 6]))
    assert (image == 150).all()
    assert labels.gt_boxes.tensor.tolist() == [[0, 0, 4, 4], [2, 2, 8, 8], [1, 1, 5, 6]]
    assert labels.gt_classes.tolist() == [0, 1, 0] and labels.gt_index.tolist() == [0, 1, 2]
    assert labels.gt_roi_cls_weight.tolist() == [1, 1, 1]


def test_mixup_of_two_sizes_shows_each_alone_where_the_other_ends() -> None:
    image, labels = mixup(labelled(100, (4, 8)), labelled(200, (8, 4), [0, 4, 4, 8]))
    assert image.shape == (3, 8, 8) and labels.image_size == (8, 8)
    corners = image[0, [0, 0, 7, 7], [0, 7, 0, 7]]
    assert corners.tolist() == [150, 100, 200, 0]
    assert labels.gt_boxes.tensor.tolist() == [[0, 4, 4, 8]]


def test_a_mosaic_has_four_quarters() -> None:
    parts = [labelled(10 * (i + 1), (8, 16), [2, 2, 8, 6]) for i in range(4)]
    image, labels = mosaic(parts)
    assert image.shape == (3, 8, 16)
    assert image[0, [0, 0, 7, 7], [0, 15, 0, 15]].tolist() == [10, 20, 30, 40]
    expected = [[1, 1, 4, 3], [9, 1, 12, 3], [1, 5, 4, 7], [9, 5, 12, 7]]
    assert labels.gt_boxes.tensor.tolist() == expected
    assert labels.gt_index.tolist() == [0, 1, 2, 3]


def test_a_tall_part_keeps_its_shape() -> None:
    tall = labelled(200, (32, 8), [0, 0, 8, 32])
    image, labels = mosaic([labelled(50, (8, 8)), tall, labelled(50, (8, 8)), tall])
    assert labels.gt_boxes.tensor.tolist() == [[4, 0, 5, 4], [4, 4, 5, 8]]
    assert image[0, 0, 4:].tolist() == [200, 114, 114, 114]


def test_boxes_that_vanish_are_left_out() -> None:
    _, labels = labelled(0, (8, 8), [0, 0, 8, 8], [0, 0, 1, 8], [6, 6, 8, 8])
    moved = placed(labels, 0.5, (8, 8), (5, 6))
    assert moved.gt_boxes.tensor.tolist() == [[6, 5, 8, 8]]  # cut; half a pixel; beyond the edge


def test_masks_follow_the_image() -> None:
    image, labels = labelled(0, (8, 8), [4, 4, 8, 8])
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 4:, 4:] = True
    labels.gt_masks = BitMasks(mask)
    _, found = mosaic([(image, labels)] * 4)
    assert found.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [4, 4, 4, 4]
    for one, box in zip(found.gt_masks.tensor, found.gt_boxes.tensor.long().tolist()):
        assert one[box[1] : box[3], box[0] : box[2]].all()


def mixed_views(streams: Tuple[str, ...], mosaic_prob: float, mixup_prob: float) -> Any:
    cfg = cfg_with(("ScoreThreshold", "MixPL"), "SSOD.SCORE_THRESHOLD", 0.0)
    cfg.SSOD.MIXPL.STREAMS = streams
    cfg.SSOD.MIXPL.MOSAIC_PROB, cfg.SSOD.MIXPL.MIXUP_PROB = mosaic_prob, mixup_prob
    core = core_of(cfg)
    images = batch(2, 4)
    core(images)
    context = core.context(images)
    context.teacher_outputs = core.label(images.unlabeled)
    pseudo = core.refine(context)
    return images, pseudo, core.student_views(images, pseudo, context), core.methods["MixPL"]


def test_only_the_streams_that_are_named_are_mixed(storage: Any) -> None:
    images, pseudo, views, method = mixed_views(("unlabeled",), 1.0, 0.0)
    assert method.activity(None, None, None) == 1.0
    for sample, image in zip(images.labeled, views.labeled.images):
        assert torch.equal(sample.strong, image)
    for sample, image in zip(images.unlabeled, views.unlabeled.images):
        assert image.shape == sample.strong.shape and not torch.equal(sample.strong, image)
    images, pseudo, views, _ = mixed_views(("labeled",), 0.0, 1.0)
    strong = len(images.labeled)
    for sample, image in zip(images.labeled, views.labeled.images[:strong]):
        assert not torch.equal(sample.strong, image)
    for sample, image in zip(images.labeled, views.labeled.images[strong:]):
        assert torch.equal(sample.weak, image)
    boxes = [len(sample.instances) for sample in images.labeled]
    assert [len(t) for t in views.labeled.targets[:strong]] == [sum(boxes)] * strong
    for sample, image in zip(images.unlabeled, views.unlabeled.images):
        assert torch.equal(sample.strong, image)


def test_labels_of_all_parts_are_there_and_the_teachers_stay(storage: Any) -> None:
    _, pseudo, views, _ = mixed_views(("unlabeled",), 0.0, 1.0)
    counts = [len(row) for row in pseudo.instances]
    for own, row in zip(counts, views.unlabeled.pseudo.instances):
        assert len(row) - own in counts
    assert isinstance(pseudo, PseudoLabels) and all(row.has("scores") for row in pseudo.instances)


def test_one_image_alone_is_not_mixed(storage: Any) -> None:
    method = MixPL(streams=("unlabeled",), mosaic_prob=1.0, mixup_prob=1.0)
    own = labelled(7, (8, 8), [0, 0, 4, 4])
    made, count = method._mix([own])
    assert count == 0 and made[0] is own


def test_an_unknown_stream_is_one_line() -> None:
    with pytest.raises(UserError, match="SSOD.MIXPL.STREAMS"):
        MixPL(streams=("weak",), mosaic_prob=0.5, mixup_prob=0.5)
    with pytest.raises(UserError, match="SSOD.MIXPL.STREAMS"):
        MixPL(streams=(), mosaic_prob=0.5, mixup_prob=0.5)
