"""Drawing, reading and pasting crops in the loader's workers."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, List, Tuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode

from ssod.data.loader import build_train_loader
from ssod.data.mapper import UnreadableImage, sample_rng
from ssod.data.snapshots import Snapshot, SnapshotBoard
from ssod.methods.acrst import visible_fraction
from ssod.methods.acrst.crop_bank.bank import Instances, labeled_instances
from ssod.methods.acrst.crop_bank.crops import CropReader, FileNames, reduction
from ssod.methods.acrst.crop_bank.paste import PasteCrops, PasteSettings, draw_instance
from ssod.structures import Sample, SSODBatch
from tiny import make_sample, tiny_cfg

SETTINGS = PasteSettings(
    paste_on=("unlabeled",),
    min_instances=1,
    max_instances=5,
    scale=(0.5, 1.5),
    flip_prob=0.5,
    color_jitter=True,
    min_visible_fraction=0.0,
    image_format="BGR",
)
PLAIN = replace(
    SETTINGS, min_instances=1, max_instances=1, scale=(1.0, 1.0), flip_prob=0.0, color_jitter=False
)


def write_image(path: Path, size: Tuple[int, int], colour: Tuple[int, int, int]) -> str:
    image = np.empty((*size, 3), dtype=np.uint8)
    image[:] = colour
    cv2.imwrite(str(path), image)
    return str(path)


def record(name: str, size: Tuple[int, int], boxes: List[List[float]], label: int = 0) -> dict:
    notes = [{"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label} for b in boxes]
    return {"file_name": name, "height": size[0], "width": size[1], "annotations": notes}


def transform(records: List[dict], settings: PasteSettings = PLAIN, classes: int = 3) -> PasteCrops:
    bank = labeled_instances(records, classes)
    names = FileNames([r["file_name"] for r in records])
    return PasteCrops(
        settings,
        labeled=bank,
        probabilities=(bank.counts > 0) / max(1, (bank.counts > 0).sum()),
        file_names={"labeled": names, "unlabeled": names},
    )


def apply(paste: PasteCrops, seed: int = 0, labeled: bool = False, snapshot: Any = None) -> Sample:
    return paste(make_sample(seed, labeled), np.random.default_rng(seed), snapshot)


def snapshot_of(instances: Instances, probabilities: List[float]) -> Snapshot:
    arrays = {**instances.arrays(), "probabilities": np.array(probabilities)}
    return Snapshot("CropBank", 0, arrays)


def test_pixels_and_labels_of_one_crop(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    paste = transform([record(str(tmp_path / "a.png"), (40, 50), [[10, 20, 22, 35]], 2)])
    before = make_sample(3, labeled=False)
    strong = before.strong.clone()
    after = paste(before, np.random.default_rng(1), None)
    assert torch.equal(before.strong, strong) and torch.equal(after.weak, before.weak)
    found = after.extras["CropBank"]
    x0, y0, x1, y1 = found.boxes[0].int().tolist()
    assert (x1 - x0, y1 - y0) == (12, 15) and found.classes.tolist() == [2]
    assert found.scores.tolist() == [1.0] and found.banks.tolist() == [0]
    inside = after.strong[:, y0:y1, x0:x1].permute(1, 2, 0).numpy()
    assert (inside == image[20:35, 10:22]).all()
    strong[:, y0:y1, x0:x1] = after.strong[:, y0:y1, x0:x1]
    assert torch.equal(after.strong, strong)  # Eq. 6: nothing else changed
    mirrored = transform(
        [record(str(tmp_path / "a.png"), (40, 50), [[10, 20, 22, 35]])],
        replace(PLAIN, flip_prob=1.0, image_format="RGB"),
    )(before, np.random.default_rng(1), None)
    inside = mirrored.strong[:, y0:y1, x0:x1].permute(1, 2, 0).numpy()
    assert (inside == image[20:35, 10:22][:, ::-1, ::-1]).all()


@pytest.mark.parametrize("seed", range(30))
def test_pasted_boxes_stay_inside_whatever_their_size(tmp_path: Path, seed: int) -> None:
    name = write_image(tmp_path / "a.png", (300, 400), (255, 0, 255))
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, [400, 300], (8, 2, 2)), axis=1).reshape(8, 4)
    tiny = [
        [3, 3, 5, 4],
        [399, 299, 400, 300],
        [7.2, 7.2, 7.4, 7.4],
        [0, 0, 400, 300],
        [0, 5, 400, 6],
    ]
    paste = transform(
        [record(name, (300, 400), [*corners.tolist(), *tiny])],
        replace(SETTINGS, color_jitter=False),
    )
    sample = apply(paste, seed)
    boxes = sample.extras["CropBank"].boxes
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 64).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all() and sample.strong.shape == (3, 64, 64)
    for x0, y0, x1, y1 in boxes[-1:].int().tolist():  # the last one lies on top
        assert sample.strong[:, y0:y1, x0:x1].reshape(3, -1).unique(dim=1).flatten().tolist() == [
            255,
            0,
            255,
        ]


def test_crops_are_scaled_like_the_view(tmp_path: Path) -> None:
    name = write_image(tmp_path / "a.png", (100, 100), (0, 255, 0))
    paste = transform([record(name, (100, 100), [[10, 10, 50, 30]])])
    sample = make_sample(0, labeled=False)
    sample.geometry.matrix[:, :2] *= 0.5  # this view is half its file's size, and mirrored
    sample.geometry.matrix[0, 0] *= -1
    box = paste(sample, np.random.default_rng(0), None).extras["CropBank"].boxes[0]
    assert (box[2:] - box[:2]).tolist() == [20, 10]


def test_labelled_views_get_their_own_labels(tmp_path: Path) -> None:
    name = write_image(tmp_path / "a.png", (64, 64), (9, 9, 9))
    whole = record(name, (64, 64), [[0, 0, 64, 64]], 1)
    paste = transform([whole], replace(PLAIN, paste_on=("labeled",)))
    sample = apply(paste, 5, labeled=True)
    # It covers the whole view, so nothing of the image's own objects is left.
    assert sample.strong_instances.gt_classes.tolist() == [1]
    assert sample.strong_instances.gt_boxes.tensor.tolist() == [[0, 0, 64, 64]]
    assert len(sample.instances) == len(make_sample(5, labeled=True).instances)
    small = transform(
        [record(name, (64, 64), [[0, 0, 2, 2]], 1)], replace(PLAIN, paste_on=("labeled",))
    )
    sample = apply(small, 5, labeled=True)
    assert len(sample.strong_instances) == len(sample.instances) + 1
    untouched = make_sample(5, labeled=False)
    assert small(untouched, np.random.default_rng(0), None) is untouched


def test_later_crops_hide_earlier_ones(tmp_path: Path) -> None:
    name = write_image(tmp_path / "a.png", (64, 64), (9, 9, 9))
    paste = transform(
        [record(name, (64, 64), [[0, 0, 64, 64]])], replace(PLAIN, min_instances=4, max_instances=4)
    )
    assert len(apply(paste).extras["CropBank"].boxes) == 1


def test_draws_follow_the_probabilities_and_both_banks() -> None:
    def bank(counts: List[int]) -> Instances:
        classes = np.repeat(np.arange(3), counts)
        rows = np.arange(len(classes))
        zeros = np.zeros((len(rows), 4))
        return Instances.sort(zeros, rows, rows, zeros[:, :2], classes, 3)

    rng, banks = np.random.default_rng(0), {0: bank([2, 0, 1]), 1: bank([1, 0, 3])}
    drawn = [draw_instance(rng, banks, np.array([0.75, 0.0, 0.25])) for _ in range(8000)]
    counts = Counter((d.bank, d.label, d.row) for d in drawn if d is not None)
    expected = {(0, 0, 0): 0.25, (0, 0, 1): 0.25, (1, 0, 0): 0.25}
    expected.update({(0, 2, 2): 1 / 16, **{(1, 2, row): 1 / 16 for row in (1, 2, 3)}})
    assert set(counts) == set(expected)
    for key, share in expected.items():
        assert counts[key] / 8000 == pytest.approx(share, abs=0.02)
    assert draw_instance(rng, banks, np.zeros(3)) is None
    assert draw_instance(rng, {0: bank([0, 0, 0])}, np.array([0.0, 0, 0])) is None


def test_empty_bank_leaves_the_view_alone(tmp_path: Path) -> None:
    paste = transform([])
    sample = apply(paste)
    assert "CropBank" not in sample.extras
    assert torch.equal(sample.strong, make_sample(0, False).strong)


def test_snapshot_adds_the_pseudo_bank(tmp_path: Path) -> None:
    name = write_image(tmp_path / "a.png", (20, 20), (1, 2, 3))
    paste = transform([record(name, (20, 20), [[0, 0, 5, 5]], 0)])
    one = np.array([0])
    pseudo = Instances.sort(
        np.array([[0, 0, 7, 7]]), one + 0.5, one, np.array([[20, 20]]), one + 1, 3
    )
    found = apply(paste, 0, snapshot=snapshot_of(pseudo, [0.0, 1.0, 0.0])).extras["CropBank"]
    assert found.classes.tolist() == [1] and found.banks.tolist() == [1]
    assert found.scores.tolist() == [0.5]
    found = apply(paste, 0, snapshot=snapshot_of(pseudo, [1.0, 0.0, 0.0])).extras["CropBank"]
    assert found.classes.tolist() == [0] and found.banks.tolist() == [0]


def test_unreadable_files_are_listed_and_do_not_stop(tmp_path: Path) -> None:
    name = write_image(tmp_path / "a.png", (20, 20), (1, 2, 3))
    other = write_image(tmp_path / "b.png", (20, 20), (1, 2, 3))
    records = [record(name, (20, 20), [[0, 0, 5, 5]]), record(other, (20, 20), [[0, 0, 5, 5]])]
    paste = transform(records, replace(PLAIN, min_instances=5, max_instances=5))
    Path(name).unlink()
    Path(other).write_bytes(b"no image")
    sample = apply(paste)
    assert {file for file, _ in sample.skipped} == {name, other} and "CropBank" not in sample.extras
    assert all("no crop of it is pasted" in reason for _, reason in sample.skipped)
    write_image(tmp_path / "a.png", (40, 20), (1, 2, 3))
    reasons = dict(apply(paste).skipped)
    assert "it is 20x40 now and was 20x20" in reasons[name]


def test_reader_caches_without_changing_anything(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    name = str(tmp_path / "a.jpg")
    cv2.imwrite(name, image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    full = cv2.imread(name)
    none, small, large = CropReader(0), CropReader(3000), CropReader()
    for _ in range(60):
        x0, y0 = (int(v) for v in rng.integers(0, [70, 54]))
        box, factor = (x0, y0, x0 + int(rng.integers(1, 11)), y0 + int(rng.integers(1, 11))), 1
        crops = [read(name, box, (64, 80), factor) for read in (none, small, large)]
        assert all((crop == full[y0 : box[3], x0 : box[2]]).all() for crop in crops)
    assert not none._cache and small._held <= 3000 and len(small._cache) > 1
    assert list(large._cache) == [(name, 1)]  # a small image is kept as a whole
    assert not pickle.loads(pickle.dumps(large))._cache
    halved = none(name, (10, 10, 30, 50), (64, 80), 2)
    assert halved.shape == (20, 10, 3)
    expected = cv2.resize(full[10:50, 10:30], (10, 20), interpolation=cv2.INTER_AREA)
    assert np.abs(halved.astype(int) - expected).mean() < 12
    assert none(name, (78, 62, 80, 64), (64, 80), 8).shape == (1, 1, 3)
    with pytest.raises(UnreadableImage, match="was 80x60"):
        none(name, (0, 0, 1, 1), (60, 80), 1)


def test_reader_turns_by_exif(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(np.zeros((10, 30, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert CropReader()(str(tmp_path / "a.jpg"), (0, 20, 5, 30), (30, 10), 1).shape == (10, 5, 3)


def test_reduction_never_costs_resolution() -> None:
    assert [reduction(s) for s in (2.0, 1.0, 0.51, 0.5, 0.3, 0.25, 0.124, 0.01)] == [
        1,
        1,
        1,
        2,
        2,
        4,
        8,
        8,
    ]


def test_file_names_survive(tmp_path: Path) -> None:
    names = ["a.jpg", "", "ü/ß.png", "\udce9.jpg"]
    packed = pickle.loads(pickle.dumps(FileNames(names)))
    assert [packed[i] for i in range(4)] == names


# ---------------------------------------------------------------- in a loader


def records_on_disk(folder: Path, count: int, labeled: bool) -> List[dict]:
    folder.mkdir(exist_ok=True)
    rng, rows = np.random.default_rng(count), []
    for index in range(count):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        row = record(str(path), (48, 64), [[5, 5, 20, 25]] if labeled else [], index % 2)
        if not labeled:
            del row["annotations"]
        rows.append({**row, "image_id": index})
    return rows


def run_loader(tmp_path: Path, workers: int, steps: int = 14) -> List[SSODBatch]:
    """After step 3 a crop of class 2, which no labelled image has, is published for every worker to
    draw.
    """
    cfg = tiny_cfg()
    cfg.DATALOADER.NUM_WORKERS, cfg.SSOD.METHODS = workers, ("CropBank",)
    labeled = records_on_disk(tmp_path / "l", 3, True)
    unlabeled = records_on_disk(tmp_path / "u", 5, False)
    settings = replace(SETTINGS, paste_on=("labeled", "unlabeled"))
    paste = transform(labeled, settings)
    paste.file_names["unlabeled"] = FileNames([r["file_name"] for r in unlabeled])
    board = SnapshotBoard(str(tmp_path / f"board{workers}"), 5)
    loader = build_train_loader(
        cfg, labeled, unlabeled, view_transforms={"CropBank": paste}, board=board, seed=1
    )
    batches = []
    for step, batch in zip(range(steps), loader):
        batches.append(batch)
        if step == 3:
            two = np.array([2])
            added = Instances.sort(
                np.array([[1, 1, 9, 9]]), two / 4, two, np.array([[48, 64]]), two, 3
            )
            board.publish("CropBank", snapshot_of(added, [0.0, 0.0, 1.0]).arrays, step)
    return batches


def test_two_workers_see_what_none_sees_and_a_new_crop_reaches_both(tmp_path: Path) -> None:
    plain, forked = run_loader(tmp_path, 0), run_loader(tmp_path, 2)
    for step, (one, two) in enumerate(zip(plain, forked)):
        for a, b in zip(one.labeled + one.unlabeled, two.labeled + two.unlabeled):
            assert a.ref == b.ref and torch.equal(a.strong, b.strong)
            x, y = a.extras["CropBank"], b.extras["CropBank"]
            assert torch.equal(x.boxes, y.boxes) and torch.equal(x.classes, y.classes)
            # Published after step 3, in effect five steps later in every worker, and not before in
            # any.
            assert (x.classes == 2).all() if step >= 8 else (x.classes < 2).all()
            assert (a.strong_instances is None) == (a.ref.stream == "unlabeled")


def test_a_vanished_file_is_listed_by_the_loader(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("CropBank",)
    labeled = records_on_disk(tmp_path / "l", 1, True)
    unlabeled = records_on_disk(tmp_path / "u", 4, False)
    gone = write_image(tmp_path / "gone.png", (48, 64), (0, 0, 0))
    paste = transform([record(gone, (48, 64), [[1, 1, 9, 9]])], SETTINGS)
    Path(gone).unlink()
    Path(unlabeled[0]["file_name"]).write_bytes(b"")
    cfg.SSOD.BURN_IN_STEPS = 0
    loader = build_train_loader(
        cfg, labeled, unlabeled, view_transforms={"CropBank": paste}, seed=1
    )
    skipped = [s.skipped for b in islice(loader, 6) for s in b.unlabeled]
    assert all(gone in dict(pairs) for pairs in skipped)
    assert any(unlabeled[0]["file_name"] in dict(pairs) for pairs in skipped)


def test_a_position_decides_what_is_pasted(tmp_path: Path) -> None:
    name = write_image(tmp_path / "a.png", (40, 40), (200, 10, 10))
    paste = transform([record(name, (40, 40), [[0, 0, 9, 9], [3, 4, 20, 30]])], SETTINGS)
    sample = make_sample(4, False)
    first = paste(sample, sample_rng(0, sample.ref, "CropBank"), None)
    again = pickle.loads(pickle.dumps(paste))(sample, sample_rng(0, sample.ref, "CropBank"), None)
    assert torch.equal(first.strong, again.strong) and not torch.equal(first.strong, sample.strong)
    other = paste(sample, sample_rng(1, sample.ref, "CropBank"), None)
    assert not torch.equal(first.strong, other.strong)


def test_crops_hidden_by_several_later_ones_together() -> None:
    for seed in range(20):
        corners = np.sort(np.random.default_rng(seed).integers(0, 20, (6, 2, 2)), axis=1)
        corners[:, 1] += 1
        drawn = [tuple(box) for box in corners.reshape(6, 4).tolist()]
        every = torch.tensor(drawn)
        seen = [visible_fraction(every[[i]], every[i + 1 :])[0] for i in range(6)]
        for least in (0.0, 0.4):
            paste = transform([], replace(PLAIN, min_visible_fraction=least))
            found = paste._visible([(box, 1, 0.5, 1) for box in drawn]).boxes
            assert found.tolist() == [list(b) for b, share in zip(drawn, seen) if share > least]
    paste = transform([])
    # The first is covered by the second and third, the fourth touches nothing, the second is hidden
    # in part.
    boxes = [[2, 2, 10, 10], [0, 0, 6, 12], [5, 1, 12, 11], [30, 30, 31, 31]]
    rows = [(tuple(box), 1, 0.5, 1) for box in boxes]
    assert paste._visible(rows).boxes.tolist() == boxes[1:]
    reordered = [rows[1], rows[2], rows[0]]
    assert paste._visible(reordered).boxes.tolist() == [boxes[1], boxes[2], boxes[0]]
