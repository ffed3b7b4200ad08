from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from ssod.config import add_ssod_config
from ssod.data.augmentation import StrongAugmentation
from ssod.data.mapper import TwoViewMapper, UnreadableImage, ViewTransform
from ssod.data.snapshots import Snapshot, SnapshotBoard
from ssod.errors import UserError
from ssod.structures import Sample, SampleRef

SIZE = (60, 90)
BOXES = [[30.0, 20.0, 60.0, 50.0], [5.0, 5.0, 20.5, 17.25]]


def _record(folder: Path, labeled: bool = True) -> Dict[str, Any]:
    path = folder / "image.png"
    if not path.exists():
        pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    record: Dict[str, Any] = {
        "file_name": str(path),
        "image_id": 7,
        "height": SIZE[0],
        "width": SIZE[1],
    }
    if labeled:
        record["annotations"] = [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": k,
                "segmentation": [[0, 0, 1, 1, 2, 2]],
            }
            for k, box in enumerate(BOXES)
        ]
    return record


def _mapper(strong: Optional[StrongAugmentation] = None, **keywords: Any) -> TwoViewMapper:
    augmentations = keywords.pop(
        "augmentations", [T.ResizeShortestEdge((40, 80), 200, "range"), T.RandomFlip()]
    )
    keywords = {"image_format": "BGR", "seed": 5, **keywords}
    return TwoViewMapper(augmentations, strong=strong, **keywords)


def test_boxes_return_to_the_original_image(tmp_path: Path) -> None:
    mapper = _mapper(
        augmentations=[
            T.ResizeShortestEdge((40, 120), 300, "range"),
            T.RandomFlip(horizontal=True, vertical=False),
            T.RandomFlip(horizontal=False, vertical=True),
            T.RandomCrop("relative_range", (0.6, 0.6)),
        ]
    )
    record, whole = _record(tmp_path), 0
    for position in range(60):
        sample = mapper(record, SampleRef("labeled", position, 0))
        assert sample.instances is not None and sample.geometry.original_size == SIZE
        back = sample.geometry.boxes_to_original(sample.instances.gt_boxes.tensor)
        expected = torch.tensor(BOXES)[sample.instances.gt_classes]
        height, width = sample.weak.shape[1:]
        view = sample.instances.gt_boxes.tensor
        uncut = (view[:, :2] > 0).all(1) & (view[:, 2] < width) & (view[:, 3] < height)
        whole += int(uncut.sum())
        assert torch.allclose(back[uncut], expected[uncut], atol=1e-3)
        # Only the part that the crop cut off is missing.
        assert (back[:, :2] >= expected[:, :2] - 1e-3).all()
        assert (back[:, 2:] <= expected[:, 2:] + 1e-3).all()
    assert whole > 30


def test_views_share_geometry_and_pixels_agree_with_the_matrix(tmp_path: Path) -> None:
    record = _record(tmp_path)
    sample = _mapper(augmentations=[T.RandomFlip(prob=1.0)])(record, SampleRef("labeled", 0, 0))
    pixels = np.asarray(Image.open(record["file_name"]))[:, ::-1, ::-1]
    assert torch.equal(sample.weak, torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
    assert sample.geometry.matrix.tolist() == [[-1.0, 0.0, 90.0], [0.0, 1.0, 0.0]]
    assert torch.equal(sample.strong, sample.weak)
    assert sample.strong.data_ptr() != sample.weak.data_ptr()
    for position in range(5):
        sample = _mapper(StrongAugmentation())(record, SampleRef("labeled", position, 0))
        assert sample.weak.shape == sample.strong.shape
        assert sample.weak.dtype == sample.strong.dtype == torch.uint8
        assert sample.weak.is_contiguous() and sample.strong.is_contiguous()
        assert not torch.equal(sample.weak, sample.strong)


def test_randomness_follows_from_the_position_alone(tmp_path: Path) -> None:
    record, mapper = _record(tmp_path), _mapper(StrongAugmentation())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = [mapper(record, SampleRef("labeled", p, 0)) for p in range(6)]
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    np.random.seed(99)
    for p in reversed(range(6)):
        again = mapper(record, SampleRef("labeled", p, 3, (("A", 1),)))
        assert torch.equal(again.weak, first[p].weak) and torch.equal(again.strong, first[p].strong)
    assert len({s.weak.shape for s in first}) > 1
    other = mapper({**record, "annotations": []}, SampleRef("unlabeled", 0, 0))
    assert not (
        other.strong.shape == first[0].strong.shape and torch.equal(other.strong, first[0].strong)
    )


def test_strong_view_does_not_move_the_geometry(tmp_path: Path) -> None:
    record = _record(tmp_path)
    for p in range(5):
        ref = SampleRef("labeled", p, 0)
        assert torch.equal(
            _mapper()(record, ref).weak, _mapper(StrongAugmentation())(record, ref).weak
        )


def test_rgb_models_get_the_same_picture(tmp_path: Path) -> None:
    record, ref = _record(tmp_path), SampleRef("labeled", 4, 0)
    bgr = _mapper(StrongAugmentation())(record, ref)
    rgb = _mapper(StrongAugmentation(), image_format="RGB")(record, ref)
    assert torch.equal(bgr.weak.flip(0), rgb.weak) and torch.equal(bgr.strong.flip(0), rgb.strong)
    with pytest.raises(UserError, match="INPUT.FORMAT L"):
        _mapper(image_format="L")


def test_crowds_and_empty_boxes_go_and_unlabelled_truth_is_never_read(tmp_path: Path) -> None:
    record = _record(tmp_path)
    record["annotations"][0]["iscrowd"] = 1
    flat = {"bbox": [3, 3, 3, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2}
    sample = _mapper()(
        {**record, "annotations": [*record["annotations"], flat]}, SampleRef("labeled", 0, 0)
    )
    assert sample.instances is not None and sample.instances.gt_classes.tolist() == [1]
    empty = _mapper()({**record, "annotations": []}, SampleRef("labeled", 0, 0))
    assert empty.instances is not None and empty.instances.gt_boxes.tensor.shape == (0, 4)
    assert empty.instances.gt_classes.dtype == torch.int64
    assert (
        _mapper()({**record, "annotations": "poison"}, SampleRef("unlabeled", 0, 0)).instances
        is None
    )


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "empty", "size"])
def test_unreadable_files(tmp_path: Path, damage: str) -> None:
    record = _record(tmp_path)
    path = Path(record["file_name"])
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "size":
        record["width"] += 1
    else:
        path.write_bytes(b"" if damage == "empty" else b"not an image")
    with pytest.raises(UnreadableImage) as caught:
        _mapper()(record, SampleRef("labeled", 0, 0))
    assert caught.value.file_name == str(path)
    assert caught.value.reason and "\n" not in caught.value.reason


class _Swirl(T.Transform):
    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords**2


def test_geometry_that_is_not_affine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="_Swirl"):
        _mapper(augmentations=[_Swirl()])(_record(tmp_path), SampleRef("unlabeled", 0, 0))


class _Note:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self, sample: Sample, rng: np.random.Generator, snapshot: Optional[Snapshot]
    ) -> Sample:
        value = None if snapshot is None else (snapshot.id, int(snapshot.arrays["x"][0]))
        note = {self.name: (len(sample.extras), rng.integers(1 << 30), value)}
        return dataclasses.replace(sample, extras={**sample.extras, **note})


def test_methods_transforms_run_in_order_with_their_own_generator_and_snapshot(
    tmp_path: Path,
) -> None:
    board = SnapshotBoard(str(tmp_path / "board"), delay=1)
    board.publish("B", {"x": np.array([10])}, 0)
    board.publish("B", {"x": np.array([11])}, 1)

    def extras(names: str, ref: SampleRef) -> Dict[str, Any]:
        transforms: Dict[str, ViewTransform] = {name: _Note(name) for name in names}
        mapper = _mapper(view_transforms=transforms, snapshots=board.reader)
        return mapper(_record(tmp_path), ref).extras

    ref = SampleRef("unlabeled", 3, 0, (("B", 1),))
    both = extras("BA", ref)
    assert both["B"][0] == 0 and both["A"][0] == 1
    assert both["B"][2] == (1, 11) and both["A"][2] is None
    assert both["A"][1] != both["B"][1]
    # Another method beside it changes nothing for a method.
    assert extras("A", ref)["A"][1] == both["A"][1]
    assert extras("A", dataclasses.replace(ref, position=4))["A"][1] != both["A"][1]


def test_from_config_crops_first(tmp_path: Path) -> None:
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [30, 30]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (60,), 60
    mapper = TwoViewMapper.from_config(cfg, seed=0)
    sample = mapper(_record(tmp_path), SampleRef("labeled", 0, 0))
    assert sample.weak.shape == (3, 60, 60)
    assert abs(sample.geometry.matrix[0, 0]) == pytest.approx(2.0)
    assert mapper.strong is not None and mapper.strong.noise_sigma == 5.0
    cfg.SSOD.STRONG_AUGMENTATION.ENABLED = False
    assert TwoViewMapper.from_config(cfg, seed=0).strong is None
