"""CropBank and MixUpMosaic with instance masks: hand-made scenes, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from ssod.data.masks import encode_mask, tight_boxes
from ssod.data.snapshots import Snapshot
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.methods.acrst.crop_bank.bank import PseudoBank, labeled_instances, pack_batch
from ssod.methods.acrst.crop_bank.crops import FileNames
from ssod.methods.acrst.crop_bank.masks import (
    GRID,
    label_grids,
    pack_grids,
    scale_mask,
    unpack_grid,
)
from ssod.methods.acrst.crop_bank.paste import PasteCrops, Pasted, PasteSettings
from ssod.methods.acrst.crop_bank.visibility import hide_pixels
from ssod.methods.acrst.mixup_mosaic.mixing import MixedLabels, Tile, cover_tile, mix_labels
from ssod.methods.base import TrainingData
from ssod.structures import Geometry, PseudoLabels, View, Views
from steps import bare_context
from tiny import SIZE, make_sample, tiny_cfg

PLAIN = PasteSettings(
    paste_on=("unlabeled", "labeled"),
    min_instances=1,
    max_instances=1,
    scale=(1.0, 1.0),
    flip_prob=0.0,
    color_jitter=False,
    min_visible_fraction=0.0,
    image_format="BGR",
)


def disc(height: int = SIZE, width: int = SIZE, x: float = 20, y: float = 30, r: float = 9) -> Any:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < r * r


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def record(folder: Path, masks: List[np.ndarray], seed: int = 0) -> Dict[str, Any]:
    """A noise image whose annotations' boxes are two pixels wider than their masks."""
    image = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    path = str(folder / f"{seed}.png")
    cv2.imwrite(path, image)
    annotations = []
    for label, mask in enumerate(masks):
        box = tight_boxes(torch.from_numpy(mask)[None])[0] + torch.tensor([-2.0, -2, 2, 2])
        annotations.append(
            {
                "bbox": box.tolist(),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": label % 3,
                "segmentation": encode_mask(mask),
            }
        )
    return {"file_name": path, "height": SIZE, "width": SIZE, "annotations": annotations}


def transform(records: List[Dict[str, Any]], settings: PasteSettings = PLAIN) -> PasteCrops:
    bank = labeled_instances(records, 3, masks=True)
    names = FileNames([r["file_name"] for r in records])
    probabilities = (bank.counts > 0) / max(1, (bank.counts > 0).sum())
    files = {"labeled": names, "unlabeled": names}
    return PasteCrops(settings, labeled=bank, probabilities=probabilities, file_names=files)


def test_exactly_the_pixels_of_the_mask_are_pasted(tmp_path: Path) -> None:
    mask = disc()
    one = record(tmp_path, [mask])
    source = cv2.imread(one["file_name"]).transpose(2, 0, 1)
    before = make_sample(3, labeled=False)
    for settings in (PLAIN, replace(PLAIN, flip_prob=1.0)):
        after = transform([one], settings)(before, np.random.default_rng(1), None)
        found: Pasted = after.extras["CropBank"]
        assert found.masks is not None and found.covered is not None
        own = mask[21:39, 11:29]  # tight: 18 pixels of a disc of radius 9
        assert own.any(axis=0).all() and own.any(axis=1).all() and own.sum() == mask.sum()
        pixels = source[:, 21:39, 11:29]
        if settings.flip_prob:
            own, pixels = own[:, ::-1], pixels[:, :, ::-1]
        x0, y0, x1, y1 = found.boxes[0].int().tolist()
        assert (x1 - x0, y1 - y0) == (18, 18)
        assert (found.masks[0, y0:y1, x0:x1].numpy() == own).all()
        assert int(found.masks.sum()) == own.sum() == int(found.covered.sum())
        changed = after.strong.clone()
        assert (changed[:, y0:y1, x0:x1].numpy()[:, own] == pixels[:, own]).all()
        changed[:, found.masks[0]] = before.strong[:, found.masks[0]]
        assert torch.equal(changed, before.strong)  # nothing beside the mask


def test_boxes_stay_tight_at_any_scale(tmp_path: Path) -> None:
    settings = replace(PLAIN, scale=(0.3, 2.0), max_instances=4, flip_prob=0.5)
    paste = transform([record(tmp_path, [disc(), disc(x=50, r=3), block(2, 2, 40, 4)])], settings)
    for seed in range(20):
        after = paste(make_sample(seed, labeled=False), np.random.default_rng(seed), None)
        found = after.extras["CropBank"]
        assert torch.equal(found.boxes, tight_boxes(found.masks))
        assert int(found.masks.sum(dim=0).max()) <= 1  # a pixel belongs to the topmost object
        assert torch.equal(found.masks.any(dim=0) & found.covered, found.masks.any(dim=0))


def test_a_label_whose_visible_pixels_are_too_few_is_gone(tmp_path: Path) -> None:
    paste = transform([record(tmp_path, [disc()])], replace(PLAIN, min_visible_fraction=0.5))
    whole = np.ones((10, 10), dtype=bool)
    frame = whole.copy()
    frame[1:9, 1:9] = False  # covers 36 of 100 pixels, though its box covers all
    rows: Any = [((5, 5, 15, 15), 0, 1.0, 0, whole), ((5, 5, 15, 15), 1, 1.0, 0, frame)]
    found = paste._visible_masks(rows, (SIZE, SIZE))
    assert found.classes.tolist() == [0, 1]
    assert found.boxes.tolist() == [[6, 6, 14, 14], [5, 5, 15, 15]]
    assert found.masks is not None and found.masks.flatten(1).sum(dim=1).tolist() == [64, 36]
    inner = ~frame  # covers 64 of 100
    rows[1] = ((5, 5, 15, 15), 1, 1.0, 0, inner)
    found = paste._visible_masks(rows, (SIZE, SIZE))
    assert found.classes.tolist() == [1] and found.covered is not None
    assert int(found.covered.sum()) == 100  # the lost label's pixels hide others still


def test_hidden_pixels_move_the_sides_of_the_box() -> None:
    masks = torch.from_numpy(
        np.stack([block(10, 10, 20, 20), block(30, 30, 40, 40), block(0, 0, 0, 0)])
    )
    # The first box is wider than its mask by 1 on each side, as a teacher's box may be.
    boxes = torch.tensor([[9.0, 9, 21, 21], [30, 30, 40, 40], [50, 50, 60, 60]])
    covered = torch.from_numpy(block(15, 0, 64, 64) & ~block(30, 30, 35, 64))
    occluders = torch.tensor([[15.0, 0, 64, 55]])
    moved, left, fraction = hide_pixels(boxes, masks, covered, occluders)
    assert moved.tolist() == [[9, 9, 16, 21], [30, 30, 35, 40], [50, 50, 60, 60]]
    assert fraction.tolist() == [0.5, 0.5, 0.5]  # the last, of unknown mask, by boxes
    assert left.flatten(1).sum(dim=1).tolist() == [50, 50, 0]


def test_labelled_images_keep_what_is_still_visible(tmp_path: Path) -> None:
    paste = transform([record(tmp_path, [disc()])])
    own = Instances((SIZE, SIZE), gt_classes=torch.tensor([0, 2]))
    own.gt_boxes = Boxes(torch.tensor([[10.0, 10, 20, 20], [30, 30, 40, 40]]))
    own.gt_masks = BitMasks(np.stack([block(10, 10, 20, 20), block(30, 30, 40, 40)]))
    over = torch.from_numpy(block(5, 5, 25, 20))[None]
    pasted = Pasted(tight_boxes(over), torch.tensor([1]), torch.ones(1), torch.zeros(1).long(),
                    None, over, over[0])  # fmt: skip
    merged = paste._merge(own, pasted)
    assert merged.gt_classes.tolist() == [2, 1]
    assert torch.equal(merged.gt_masks.tensor[0], own.gt_masks.tensor[1])
    assert torch.equal(merged.gt_masks.tensor[1], over[0])


# ---------------------------------------------------------------- the bank of pseudo-labels


def test_grids_are_packed_without_loss() -> None:
    grids = np.random.default_rng(0).random((5, GRID, GRID)) < 0.5
    packed = pack_grids(grids)
    assert packed.dtype == np.float64
    assert all((unpack_grid(row) == grid).all() for row, grid in zip(packed, grids))
    assert pack_grids(grids[:0]).shape == (0, packed.shape[1])


def test_scaled_masks_keep_thin_objects() -> None:
    assert scale_mask(np.ones((4, 4), bool), (2, 2)).all()
    assert scale_mask(np.eye(4, dtype=bool), (2, 2)).tolist() == [[True, False], [False, True]]
    thin = np.zeros((8, 8), dtype=bool)
    thin[:, 3] = True
    assert scale_mask(thin, (2, 2)).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize(
    "linear", [[[2.0, 0], [0, 2]], [[-2.0, 0], [0, 2]], [[2.0, 0], [0, -2]], [[0, 2.0], [-2, 0]]]
)
def test_grids_lie_as_in_the_image_file(linear: List[List[float]]) -> None:
    """An L of a file is seen twice as large, mirrored or turned in the view, and comes back."""
    ell = np.zeros((32, 32), dtype=bool)
    ell[4:18, 4:7] = ell[15:18, 4:18] = True
    view = np.kron(ell, np.ones((2, 2), dtype=bool))
    matrix = np.array(linear)
    if matrix[0, 0] == 0:  # x_view = 2 y, y_view = 64 - 2 x
        view = view.T[::-1]
    view = view[:, ::-1] if matrix[0, 0] < 0 else view
    view = view[::-1] if matrix[1, 1] < 0 else view
    masks = torch.from_numpy(np.ascontiguousarray(view))[None]
    grids = label_grids(masks, tight_boxes(masks), np.concatenate([matrix, [[0], [0]]], axis=1))
    assert (grids[0] == np.kron(ell[4:18, 4:18], np.ones((2, 2), dtype=bool))).all()


def pseudo(masks: List[np.ndarray]) -> PseudoLabels:
    found = Instances((SIZE, SIZE))
    stacked = torch.from_numpy(np.stack(masks))
    found.pred_boxes = Boxes(tight_boxes(stacked) + torch.tensor([-1.0, -1, 1, 1]))
    found.scores = torch.linspace(0.9, 0.5, len(masks))
    found.pred_classes = torch.arange(len(masks)) % 3
    found.pred_masks = stacked
    return PseudoLabels.from_detections([found])


def test_the_pseudo_bank_keeps_masks_through_state_and_snapshot(tmp_path: Path) -> None:
    sample = make_sample(0, labeled=False)
    labels = pseudo([disc(r=14), block(40, 4, 60, 24), block(0, 0, 0, 0)])
    packed = pack_batch(labels, [sample])
    assert len(packed) == 3  # a header, and two labels: the third has no pixel
    bank, other = PseudoBank(4, 3, masks=True), PseudoBank(4, 3, masks=True)
    bank.replace(packed)
    bank.replace(pack_batch(labels, [sample]))
    other.load(bank.state())
    assert (other.state() == bank.state()).all()
    for instances in (bank.instances(), other.instances()):
        assert instances.boxes.tolist() == [[6, 16, 34, 44], [40, 4, 60, 24]]
        assert (instances.mask(0) == disc(r=14)[16:44, 6:34]).all()  # 28 pixels: one a cell
        mask = instances.mask(1)
        assert mask is not None and mask.all()
    # The loader pastes it.
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "u.png"), image)
    paste = transform([record(tmp_path, [])])
    paste.file_names["unlabeled"] = FileNames([str(tmp_path / "u.png")])
    arrays = {**bank.instances().arrays(), "probabilities": np.array([1.0, 0, 0])}
    after = paste(sample, np.random.default_rng(0), Snapshot("CropBank", 0, arrays))
    found = after.extras["CropBank"]
    x0, y0, x1, y1 = found.boxes[0].int().tolist()
    own = disc(r=14)[16:44, 6:34]
    assert (found.masks[0, y0:y1, x0:x1].numpy() == own).all() and found.banks.tolist() == [1]
    pixels = image.transpose(2, 0, 1)[:, 16:44, 6:34]
    assert (after.strong[:, y0:y1, x0:x1].numpy()[:, own] == pixels[:, own]).all()


def test_the_pseudo_bank_is_mapped_to_the_file(tmp_path: Path) -> None:
    sample = replace(make_sample(0, labeled=False), geometry=Geometry(2 * np.eye(2, 3), (32, 32)))
    bank = PseudoBank(4, 3, masks=True)
    bank.replace(pack_batch(pseudo([disc(r=14)]), [sample]))
    assert bank.instances().boxes.tolist() == [[3, 8, 17, 22]]


def crop_bank() -> Any:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS, cfg.MODEL.MASK_ON = ("ScoreThreshold", "CropBank"), True
    built: Any = build_methods(cfg)["CropBank"]
    built.setup(TrainingData([], [{"file_name": f"{i}.png"} for i in range(4)], ["a", "b", "c"]))
    return built


def test_pseudo_labels_lose_exactly_the_pixels_that_are_covered() -> None:
    built = crop_bank()
    labels = pseudo([block(10, 10, 20, 20), block(30, 30, 40, 40), block(50, 50, 54, 54)])
    sample = make_sample(0, labeled=False)
    over = torch.from_numpy(block(10, 10, 20, 15) | block(48, 48, 60, 60))[None]
    sample.extras["CropBank"] = Pasted(
        tight_boxes(over),
        torch.tensor([2]),
        torch.ones(1),
        torch.zeros(1).long(),
        None,
        over,
        over[0],
    )
    context = bare_context([sample])
    views = Views(View([], []), View([sample.strong], [], labels))
    row = built.views(views, labels, context).unlabeled.pseudo.instances[0]
    assert row.gt_classes.tolist() == [0, 1, 2]
    # Its box covers the second label as well, its pixels do not.
    assert row.gt_boxes.tensor[:2].tolist() == [[9, 14, 21, 21], [29, 29, 41, 41]]
    sums = row.gt_masks.tensor.flatten(1).sum(dim=1).tolist()
    assert sums == [50, 100, int(over.sum())]
    nothing = PseudoLabels([labels.instances[0][torch.zeros(3, dtype=torch.bool)]])
    views = Views(View([], []), View([sample.strong], [], nothing))
    row = built.views(views, nothing, context).unlabeled.pseudo.instances[0]
    assert torch.equal(row.gt_masks.tensor, over)


def test_a_checkpoint_without_masks_is_refused() -> None:
    with pytest.raises(UserError, match="MODEL.MASK_ON False: resume with the same value"):
        crop_bank().set_extra_state(torch.from_numpy(PseudoBank(4, 3).state()))


# ---------------------------------------------------------------- MixUp and Mosaic


def test_tiles_cut_masks_by_pixels() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    masks = np.zeros((2, 10, 20), dtype=bool)
    masks[0, 2:8, 0:10] = masks[1, :, 19] = True
    boxes = np.array([[0.0, 0, 12, 10], [19, 0, 20, 10]])
    whole = Tile(image, boxes, np.array([4, 5]), masks)
    for seed in range(10):
        tile = cover_tile(whole, 10, 10, np.random.default_rng(seed), 0.3)
        assert tile.masks is not None and len(tile.masks) == len(tile.boxes)
        assert (tile.boxes == tight_boxes(torch.from_numpy(tile.masks)).numpy()).all()
        for mask, label in zip(tile.masks, tile.classes):
            assert mask.sum() >= 0.3 * masks[label - 4].sum()


def test_mixed_labels_carry_masks() -> None:
    row = pseudo([block(10, 10, 20, 20), block(30, 0, 40, 10)]).instances[0]
    added = torch.from_numpy(block(0, 40, 8, 50))[None]
    mixed = MixedLabels(
        boxes=tight_boxes(added),
        classes=torch.tensor([5]),
        weight=1.0,
        own_region=torch.tensor([14.0, 0, 64, 30]),
        own_weight=0.5,
        masks=added,
    )
    found = mix_labels(row, mixed, 0.5)
    assert found.gt_classes.tolist() == [0, 1, 5]
    assert found.gt_boxes.tensor.tolist() == [[14, 9, 21, 21], [29, 0, 41, 11], [0, 40, 8, 50]]
    assert found.gt_masks.tensor.flatten(1).sum(dim=1).tolist() == [60, 100, 80]
    assert len(mix_labels(row, mixed, 0.7)) == 2
