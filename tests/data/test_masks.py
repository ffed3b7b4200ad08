"""Masks of annotation files: reading and refusing them, and that both views keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode

from ssod.data.augmentation import StrongAugmentation
from ssod.data.catalog import load_labeled, load_unlabeled, read_test_sets
from ssod.data.coco import CocoSet
from ssod.data.loader import pack, unpack
from ssod.data.mapper import TwoViewMapper, UnreadableImage
from ssod.data.masks import decode_mask, encode_mask, read_mask, tight_boxes
from ssod.data.readings import dataset_records
from ssod.errors import UserError
from ssod.structures import PseudoLabels, SampleRef, make_targets
from ssod.tools.visualise import load_dataset
from tiny import tiny_cfg, with_squares

H, W = 6, 8
BOX = (2.0, 1.0, 6.0, 4.0)


def pixels(*rows: str) -> np.ndarray:
    """A bool array from rows of "#" and "."."""
    return np.array([[c == "#" for c in row] for row in rows])


# An L: 4 pixels of the column x = 2 and row y = 3, inside BOX.
ELL = pixels("........", "..#.....", "..#.....", "..####..", "........", "........")


def runs_of(mask: np.ndarray) -> List[int]:
    """COCO's uncompressed runs, column by column, beginning with background."""
    flat = mask.T.reshape(-1).astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


def compressed(mask: np.ndarray) -> Dict[str, Any]:
    rle = encode_mask(mask)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@pytest.mark.parametrize("kind", ["compressed", "bytes", "uncompressed"])
def test_every_run_length_encoding_gives_the_same_pixels(kind: str) -> None:
    segmentation: Dict[str, Any] = compressed(ELL)
    if kind == "bytes":
        segmentation["counts"] = segmentation["counts"].encode()
    if kind == "uncompressed":
        segmentation["counts"] = runs_of(ELL)
    rle, problem = read_mask(segmentation, BOX, H, W)
    assert problem is None and rle is not None
    assert (decode_mask(rle) == ELL).all()


def test_long_and_negative_differences_of_runs_are_understood() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((300, 200), dtype=bool)
        for _ in range(int(rng.integers(1, 6))):
            x, y, w, h = rng.integers(1, 150, 4)
            mask[y : y + h, x : x + w] = True
        rle, problem = read_mask(compressed(mask), (0, 0, 200, 300), 300, 200)
        assert problem is None and (decode_mask(rle) == mask).all()


def test_polygons_cover_the_pixels_inside_and_parts_add_up() -> None:
    left, right = [1, 1, 3, 1, 3, 4, 1, 4], [5, 2, 7, 2, 7, 5, 5, 5]
    rle, problem = read_mask([left, right, [0, 0, 1, 1]], (1, 1, 7, 5), H, W)
    expected = np.zeros((H, W), dtype=bool)
    expected[1:4, 1:3] = expected[2:5, 5:7] = True
    assert problem is None and (decode_mask(rle) == expected).all()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "without a mask"),
        ([], "without a mask"),
        ({}, "without a mask"),
        ([[2, 1, 5, 3]], "fewer than 3 points"),
        ([[2, 1, 5, 3, 4]], "no list of finite"),
        ([[2, 1, 5, float("nan"), 4, 4]], "no list of finite"),
        ([2, 1, 5, 3, 4, 4], "no list of finite"),
        ("me;4", "no list of finite"),
        ([[2, 1, 5, 1, 8, 1]], "an empty mask"),
        ({"size": [W, H], "counts": runs_of(ELL)}, "another size"),
        ({"size": [H], "counts": runs_of(ELL)}, "another size"),
        ({"counts": runs_of(ELL)}, "another size"),
        ({"size": [H, W], "counts": runs_of(ELL)[:-1]}, "does not fill"),
        ({"size": [H, W], "counts": [-1, H * W + 1]}, "does not fill"),
        ({"size": [H, W], "counts": None}, "does not fill"),
        ({"size": [H, W], "counts": "~~"}, "does not fill"),
        ({"size": [H, W], "counts": compressed(ELL)["counts"][:-1]}, "does not fill"),
        ({"size": [H, W], "counts": compressed(ELL)["counts"] + "T3l;"}, "does not fill"),
        ({"size": [H, W], "counts": [H * W]}, "an empty mask"),
        (compressed(pixels(*["......##"] * H)), "outside of its box"),
    ],
)
def test_what_cannot_be_a_mask_is_named(segmentation: Any, reason: str) -> None:
    box = (0.0, 0.0, 3.0, 6.0) if "outside" in reason else BOX
    rle, problem = read_mask(segmentation, box, H, W)
    assert rle is None and problem is not None and reason in problem


def test_polygons_beyond_the_image_are_cut_however_large() -> None:
    rle, problem = read_mask([[-1e30, -5, 1e30, -5, 1e30, 3, -1e30, 3]], (0, 0, 8, 3), H, W)
    assert problem is None and decode_mask(rle).sum() == 3 * W


def test_a_crowd_without_a_mask_covers_its_box() -> None:
    rle, problem = read_mask(None, (2, 1, 6, 4), H, W, is_crowd=True)
    assert problem is None and decode_mask(rle)[1:4, 2:6].all() and decode_mask(rle).sum() == 12


def test_tight_boxes() -> None:
    masks = torch.from_numpy(np.stack([ELL, np.zeros_like(ELL)]))
    assert tight_boxes(masks).tolist() == [[2, 1, 6, 4], [0, 0, 0, 0]]
    assert tight_boxes(masks[:0]).shape == (0, 4)


# ---------------------------------------------------------------- files and views


def write_set(folder: Path, segmentations: List[Any], name: str = "labeled") -> CocoSet:
    """One image of 6 x 8 with an annotation for each segmentation, all of the box BOX."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / name / "a.png"), image)
    annotations: List[Dict[str, Any]] = []
    for number, segmentation in enumerate(segmentations):
        row = {"id": number + 1, "image_id": 1, "category_id": 1 + number % 3, "bbox": [2, 1, 4, 3]}
        annotations.append({**row, "segmentation": segmentation, "area": 6, "iscrowd": 0})
        if segmentation is None:
            del annotations[-1]["segmentation"]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": c} for k, c in enumerate(("red", "green", "blue"))],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return CocoSet(name, str(path), str(folder / name), masks=True)


def test_annotations_with_unusable_masks_are_skipped_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_set(tmp_path, [compressed(ELL), None, {"size": [9, 9], "counts": [81]}])
    (record,) = dataset.labeled_records()
    assert len(record["annotations"]) == 1
    assert (decode_mask(record["annotations"][0]["segmentation"]) == ELL).all()
    assert "skipped 2 unusable boxes" in caplog.text and "annotation 2" in caplog.text
    assert "1 without a mask" in caplog.text and "1 with a mask of another size" in caplog.text


def test_without_mask_on_nothing_is_read(tmp_path: Path) -> None:
    dataset = write_set(tmp_path, [compressed(ELL), None])
    plain = CocoSet(dataset.name, dataset.annotations, dataset.images)
    (record,) = plain.labeled_records()
    assert len(record["annotations"]) == 2
    assert all("segmentation" not in a for a in record["annotations"])


def _mapper(augmentations: List[T.Augmentation], **keywords: Any) -> TwoViewMapper:
    return TwoViewMapper(
        augmentations,
        image_format="BGR",
        strong=StrongAugmentation(),
        seed=0,
        masks=True,
        **keywords,
    )


def test_masks_move_with_the_views(tmp_path: Path) -> None:
    (record,) = write_set(tmp_path, [compressed(ELL)]).labeled_records()
    augmentations = [T.Resize((2 * H, 2 * W)), T.RandomFlip(prob=1.0)]
    sample = _mapper(augmentations)(record, SampleRef("labeled", 0, 0))
    expected = np.kron(ELL, np.ones((2, 2), dtype=bool))[:, ::-1]
    assert sample.instances is not None
    masks = sample.instances.gt_masks.tensor
    assert masks.dtype == torch.bool and (masks[0].numpy() == expected).all()
    assert sample.instances.gt_boxes.tensor.tolist() == tight_boxes(masks).tolist()
    again = unpack(pack(sample)).instances.gt_masks.tensor  # through a worker
    assert torch.equal(again, masks)


def test_a_crop_makes_boxes_tight_and_drops_what_it_hides(tmp_path: Path) -> None:
    class LowerRows(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> T.Transform:
            return T.CropTransform(3, 2, 5, 4)  # x 3..7, y 2..5

    dot = pixels("........", "..#.....", *["........"] * 4)
    (record,) = write_set(tmp_path, [compressed(ELL), compressed(dot)]).labeled_records()
    sample = _mapper([LowerRows()], tight_boxes=True)(record, SampleRef("labeled", 0, 0))
    found = sample.instances
    assert found is not None and found.gt_classes.tolist() == [0]
    assert found.gt_boxes.tensor.tolist() == [[0, 1, 3, 2]]  # the L's foot, not the cut box


def test_an_image_without_objects_has_no_masks_but_the_column(tmp_path: Path) -> None:
    (record,) = write_set(tmp_path, []).labeled_records()
    sample = _mapper([])(record, SampleRef("labeled", 0, 0))
    assert sample.instances is not None
    assert sample.instances.gt_masks.tensor.shape == (0, H, W)


def test_an_image_of_another_size_than_its_masks_counts_as_damaged(tmp_path: Path) -> None:
    (record,) = write_set(tmp_path, [compressed(ELL)]).labeled_records()
    cv2.imwrite(record["file_name"], np.zeros((H + 1, W, 3), dtype=np.uint8))
    del record["height"], record["width"]
    with pytest.raises(UnreadableImage, match="its masks are 8 x 6"):
        _mapper([])(record, SampleRef("labeled", 0, 0))


def _cfg(folder: Path, on: bool = True) -> Any:
    cfg = with_squares(tiny_cfg(), folder, folder / "out", ("ScoreThreshold",))
    cfg.MODEL.MASK_ON = on
    cfg.DATASETS.TEST = ("squares_test",)
    return cfg


def _write_all(folder: Path, segmentations: Optional[List[Any]] = None) -> None:
    for name in ("labeled", "unlabeled", "test"):
        write_set(folder, segmentations or [compressed(ELL)], name)
        (folder / f"{name}_empty.json").write_text((folder / f"{name}.json").read_text())


def test_the_config_switches_masks_on_and_off(tmp_path: Path) -> None:
    _write_all(tmp_path)
    for on in (True, False, True):
        (record,) = load_labeled(_cfg(tmp_path, on))
        assert ("segmentation" in record["annotations"][0]) == on
        (record,) = dataset_records("squares_test")
        assert ("segmentation" in record["annotations"][0]) == on
    (record,) = load_unlabeled(_cfg(tmp_path))
    assert "annotations" not in record


@pytest.mark.parametrize("call", [load_labeled, lambda cfg: read_test_sets(cfg, ["TEST"])])
def test_a_set_without_any_mask_is_refused(tmp_path: Path, call: Any) -> None:
    _write_all(tmp_path, [None, None])
    with pytest.raises(UserError, match="has no masks, and MODEL.MASK_ON is True"):
        call(_cfg(tmp_path))


def test_sets_that_others_registered_bring_their_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = {
        "file_name": str(tmp_path / "labeled" / "a.png"),
        "image_id": 5,
        "height": H,
        "width": W,
    }
    write_set(tmp_path, [])
    box = {"bbox": list(BOX), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    rows = [{**box, "segmentation": s} for s in (polygon, compressed(ELL))] + [box]
    name = f"foreign_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [{**image, "annotations": rows}])
    try:
        cfg = _cfg(tmp_path)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
        (record,) = load_labeled(cfg)
        masks = [decode_mask(a["segmentation"]) for a in record["annotations"]]
        assert [mask.sum() for mask in masks] == [12, ELL.sum()]
        assert "skipped 1 unusable masks (1 without a mask): image 5" in caplog.text
        (drawn,), _ = load_dataset(cfg, name)
        masks = [decode_mask(a["segmentation"]).sum() for a in drawn["annotations"]]
        assert masks == [12, ELL.sum()]
    finally:
        DatasetCatalog.remove(name)


def test_stored_labels_bring_their_masks(tmp_path: Path) -> None:
    _write_all(tmp_path)
    content = json.loads((tmp_path / "unlabeled.json").read_text())
    content["annotations"][0]["score"] = 0.75
    (tmp_path / "stored.json").write_text(json.dumps(content))
    cfg = _cfg(tmp_path)
    cfg.SSOD.PSEUDO_LABELS = str(tmp_path / "stored.json")
    (record,) = load_unlabeled(cfg)
    sample = _mapper([T.RandomFlip(prob=1.0)])(record, SampleRef("unlabeled", 0, 0))
    assert sample.stored is not None
    assert TwoViewMapper.for_labelling(cfg)(
        record, SampleRef("unlabeled", 0, 0)
    ).stored.pred_masks.any()
    pseudo = PseudoLabels.from_detections([sample.stored])
    (target,) = pseudo.to_targets()
    assert (target.gt_masks.tensor[0].numpy() == ELL[:, ::-1]).all()
    assert target.gt_scores.tolist() == [0.75]
    del content["annotations"][0]["segmentation"]
    (tmp_path / "stored.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no masks, and MODEL.MASK_ON is True"):
        load_unlabeled(cfg)
    cfg.MODEL.MASK_ON = False
    assert "masks" not in load_unlabeled(cfg)[0]["stored"]


def test_targets_have_masks_only_where_there_are_some() -> None:
    boxes, classes = torch.tensor([[2.0, 1, 6, 4]]), torch.tensor([0])
    assert not make_targets((H, W), boxes, classes).has("gt_masks")
    found = make_targets((H, W), boxes, classes, masks=BitMasks(torch.from_numpy(ELL[None])))
    assert found[found.gt_classes == 0].gt_masks.tensor.sum() == ELL.sum()
    assert len(found[found.gt_classes == 1].gt_masks) == 0
