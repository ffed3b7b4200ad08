"""Stored pseudo-labels on their way from the file to the student's targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage

import toy_method  # noqa: F401  (registers Toy)
from detections import detections
from runs import digest, state_of, train, with_stored_labels
from ssod.data.catalog import load_unlabeled
from ssod.data.mapper import TwoViewMapper, stored_instances
from ssod.data.stored_labels import attach_stored_labels
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.structures import SampleRef, SSODBatch
from steps import cfg_with, core_of
from tiny import CLASSES, make_sample, tiny_cfg, with_squares


def content(images: List[str], rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {
        "images": [{"id": i + 1, "file_name": n} for i, n in enumerate(images)],
        "annotations": rows,
        "categories": [{"id": k + 1, "name": c} for k, c in enumerate(CLASSES)],
    }


def row(image: int, box: List[float], score: float = 0.5, category: int = 2) -> Dict[str, Any]:
    return {"image_id": image, "bbox": box, "score": score, "category_id": category, "id": 7}


def write(folder: Path, value: Dict[str, Any]) -> str:
    path = folder / "labels.json"
    path.write_text(json.dumps(value))
    return str(path)


RECORDS = [{"file_name": f"/data/set/{n}.png", "image_id": n} for n in "abc"]


def test_labels_reach_their_images_and_unlisted_images_leave(tmp_path: Path) -> None:
    path = write(tmp_path, content(["c.png", "set/a.png"], [row(1, [1, 2, 10, 20], 0.25)]))
    first, last = attach_stored_labels(RECORDS, path, CLASSES)
    assert first["image_id"] == "a" and last["image_id"] == "c"  # the order of the records
    assert first["stored"]["boxes"].shape == (0, 4)  # listed, without labels
    assert last["stored"]["boxes"].tolist() == [[1, 2, 11, 22]]
    assert last["stored"]["scores"].tolist() == [0.25]
    assert last["stored"]["classes"].tolist() == [1]
    assert "stored" not in RECORDS[0]


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    value = content(["a.png"], [row(1, [1, 2, 10, 20], category=9)])
    value["categories"] = [{"id": 9, "name": "red"}]
    (only,) = attach_stored_labels(RECORDS, write(tmp_path, value), CLASSES)
    assert only["stored"]["classes"].tolist() == [0]


def test_unusable_boxes_are_skipped_and_counted(tmp_path: Path, caplog) -> None:
    boxes: List[Any] = [[1, 2, 0, 20], [1, 2, 3, 4], [1, 2, 3], [], ["x", 2, 3, 4], [1, None, 3, 4]]
    value = content(["a.png"], [row(1, box) for box in boxes])
    (only,) = attach_stored_labels(RECORDS, write(tmp_path, value), CLASSES)
    assert only["stored"]["boxes"].tolist() == [[1, 2, 4, 6]]
    assert "skipped 5 unusable boxes (1 no area, 4 not four finite numbers)" in caplog.text


@pytest.mark.parametrize(
    "value, message",
    [
        (content(["z.png"], []), "z.png"),
        (content(["a.png", "a.png"], []), "twice"),
        (content(["a.png"], [{"image_id": 1, "bbox": [1, 1, 2, 2], "category_id": 1}]), "score"),
        (content(["a.png"], [row(1, [1, 1, 2, 2], 1.5)]), "score"),
        (content(["a.png"], [row(5, [1, 1, 2, 2])]), "not listed"),
        (content(["a.png"], [row(1, [1, 1, 2, 2], category=8)]), "category_id 8"),
        ({**content(["a.png"], []), "categories": [{"id": 1, "name": "dog"}]}, "dog"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, value: Dict[str, Any], message: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(UserError, match=message) as error:
        attach_stored_labels(RECORDS, path, CLASSES)
    assert path in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_ambiguous_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        attach_stored_labels(RECORDS, str(tmp_path / "no.json"), CLASSES)
    two = [{"file_name": "/x/a.png"}, {"file_name": "/y/a.png"}]
    with pytest.raises(UserError, match="longer file names"):
        attach_stored_labels(two, write(tmp_path, content(["a.png"], [])), CLASSES)


def test_geometry_by_hand() -> None:
    """An image of 100 x 50 (width x height) is doubled, mirrored, and cropped to its left 120
    pixels.
    """
    transforms = T.TransformList(
        [
            T.ResizeTransform(50, 100, 100, 200),
            T.HFlipTransform(200),
            T.CropTransform(0, 0, 120, 100),
        ]
    )
    stored = {
        "boxes": np.array([[60, 10, 90, 20], [30, 0, 60, 25], [0, 0, 10, 10]], dtype=np.float32),
        "scores": np.array([0.9, 0.8, 0.7], dtype=np.float32),
        "classes": np.array([2, 1, 0]),
    }
    found = stored_instances(stored, transforms, (100, 120))
    # x: 60..90 -> 120..180 -> mirrored 20..80; 30..60 -> 80..140, cut at 120;
    # 0..10 -> 180..200, gone.
    assert found.pred_boxes.tensor.tolist() == [[20, 20, 80, 40], [80, 0, 120, 50]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.pred_classes.tolist() == [2, 1]


def test_mapper_moves_labels_with_the_pixels(squares: Path) -> None:
    """A stored box around the one bright square stays around it in every random view."""
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[8:24, 32:56] = 255
    path = squares / "one.png"
    cv2.imwrite(str(path), image)
    stored = {
        "boxes": np.array([[32, 8, 56, 24]], dtype=np.float32),
        "scores": np.ones(1, dtype=np.float32),
        "classes": np.zeros(1, dtype=np.int64),
    }
    mapper = TwoViewMapper(
        [T.RandomFlip(), T.ResizeShortestEdge((64, 128, 192), sample_style="choice")],
        image_format="BGR",
        strong=None,
        seed=0,
    )
    widths = set()
    for position in range(6):
        record = {"file_name": str(path), "image_id": 1, "stored": stored}
        sample = mapper(record, SampleRef("unlabeled", position, 0))
        assert sample.stored is not None and sample.instances is None
        (box,) = sample.stored.pred_boxes.tensor
        bright = (sample.weak[0] > 127).nonzero()
        assert torch.allclose(box[[1, 0]], bright.min(0).values.float(), atol=1.0)
        assert torch.allclose(box[[3, 2]], bright.max(0).values.float() + 1, atol=1.0)
        widths.add((sample.weak.shape[2], float(box[0])))
    assert len(widths) > 2


def stored_squares(root: Path, output: Path, methods: tuple[str, ...]) -> CfgNode:
    return with_stored_labels(with_squares(tiny_cfg(), root, output, methods), root, output)


METHODS = ("ScoreThreshold", "PseudoBoxRegression")


@pytest.mark.trains
def test_training_uses_them_and_the_teacher_rests(
    squares: Path, tmp_path: Path, monkeypatch
) -> None:
    cfg = stored_squares(squares, tmp_path / "run", METHODS)
    trainer = SSODTrainer(cfg)
    monkeypatch.setattr(trainer.core, "label", lambda samples: pytest.fail("the teacher was run"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    pseudo = trainer.core.last_pseudo
    assert pseudo is not None
    records = {r["image_id"]: r["stored"] for r in load_unlabeled(cfg)}
    for sample, found in zip(trainer.core.last_batch.unlabeled, pseudo.instances):
        assert len(found) == len(records[sample.image_id]["boxes"])
        assert bool(found.selected.all()) and bool((found.roi_reg_weight == 1).all())
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert lines[-1]["loss_box_reg_unlabeled"] > 0
    # The measurement at the end looked at the stored labels too.
    assert (tmp_path / "run/pseudo_quality/step_6.json").exists()


@pytest.mark.trains
def test_resumed_equals_uninterrupted(squares: Path, tmp_path: Path) -> None:
    methods = (*METHODS, "UncertainNegatives")
    whole = train(stored_squares(squares, tmp_path / "a", methods))
    cfg = stored_squares(squares, tmp_path / "b", methods)
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    train(cfg, until=3)
    again = train(cfg, resume=True)
    assert digest(state_of(again)) == digest(state_of(whole))


def test_methods_that_need_the_teacher_are_refused(squares: Path, tmp_path: Path) -> None:
    cfg = stored_squares(squares, tmp_path / "run", ("ScoreThreshold", "Toy"))
    toy_method.Toy.needs_online_teacher = True
    try:
        with pytest.raises(UserError, match="Toy needs the online teacher"):
            SSODTrainer(cfg)
    finally:
        del toy_method.Toy.needs_online_teacher
    cfg.SSOD.METHODS = ()
    with pytest.raises(UserError, match="SSOD.PSEUDO_LABELS is set"):
        SSODTrainer(cfg)


def test_stored_labels_replace_detections_in_the_step() -> None:
    core = core_of(cfg_with(("ScoreThreshold",)))
    sample = make_sample(3, False)
    sample.stored = detections([0.4], [2], [[1.0, 2.0, 30.0, 40.0]])
    context = core.context(SSODBatch([], [sample]))
    with EventStorage():
        pseudo = core.pseudo_labels(context)
    assert context.teacher_outputs is None
    assert pseudo.instances[0].gt_boxes.tensor.tolist() == [[1, 2, 30, 40]]
    assert pseudo.instances[0].selected.tolist() == [False]  # 0.4 < 0.7
