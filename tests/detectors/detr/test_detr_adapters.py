"""Deformable DETR and RT-DETR in the training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from detr_case import KINDS, build, detr_cfg, inputs
from runs import digest, state_of, train
from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.detectors.registry import build_adapter, find_detector
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.pseudo_labels.predictions import _build
from ssod.structures import SSODBatch, View, Views, make_targets
from steps import batch, core_of
from tiny import with_squares

pytest.importorskip("transformers")
BOTH = ("deformable", "rt_detr")
UNBIASED = ("ScoreThreshold",)


def build_core(kind: str, methods: Tuple[str, ...] = UNBIASED, *keys: Any) -> TeacherStudent:
    return core_of(detr_cfg(kind, "SSOD.METHODS", methods, *keys))


def step(core: TeacherStudent, values: SSODBatch) -> Dict[str, torch.Tensor]:
    torch.manual_seed(4)
    with EventStorage():
        return core(values)


@pytest.mark.parametrize("kind", KINDS)
def test_family(kind: str) -> None:
    adapter = build_adapter(detr_cfg(kind), build(kind))
    assert adapter.family.endswith("RT-DETR v2" if kind == "rt_detr" else "Deformable DETR")
    paired = Capability.PAIRED in adapter.capabilities
    assert paired == (kind in ("deformable", "refine"))  # learned queries alone
    assert find_detector(build(kind)) is type(adapter)


def test_what_the_families_refuse() -> None:
    for keys, message in (
        (("MODEL.MASK_ON", True), "MODEL.MASK_ON is set, but RT-DETR v2 has boxes alone"),
        (("SSOD.ROI_CLS_LOSS", "focal"), "focal is for Faster R-CNN"),
        (("SSOD.RPN_SCORE_THRESHOLD", 0.5), "RT-DETR v2 has no RPN"),
    ):
        cfg = detr_cfg("rt_detr", *keys)
        with pytest.raises(UserError, match=message):
            build_adapter(cfg, build("rt_detr"))
    with pytest.raises(
        UserError, match="GradientReweighting needs a softmax.*RT-DETR v2 does not have"
    ):
        build_core("rt_detr", ("ScoreThreshold", "GradientReweighting"))


def run_views(kind: str) -> Tuple[Any, Any, Views]:
    student = build(kind)
    streams = []
    for index in range(2):
        entries = inputs()
        targets = []
        for entry in entries:
            own = entry["instances"]
            kept = own if index == 0 else own[:0]  # the second stream has no labels
            targets.append(make_targets(own.image_size, kept.gt_boxes.tensor, kept.gt_classes))
        streams.append(View([entry["image"] for entry in entries], targets))
    return student, build_adapter(detr_cfg(kind), student), Views(*streams)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_one_pass(kind: str) -> None:
    student, adapter, views = run_views(kind)
    outputs = adapter.run(views)
    assert isinstance(outputs, Outputs) and outputs.unlabeled is not None
    own = adapter.losses(outputs.labeled)
    torch.manual_seed(0)
    total = sum(own.values()) + sum(adapter.losses(outputs.unlabeled).values())
    assert set(own) == set(adapter.losses(outputs.unlabeled))
    torch.as_tensor(total).backward()
    assert all(p.grad is not None for p in student.parameters())
    rows = outputs.labeled.rows
    assert rows is not None and rows.logits.shape == (2 * 20, 3)
    counts = [len(target) for target in views.labeled.targets]
    assert (rows.label_index >= 0).sum() == (rows.labels < 3).sum() == sum(counts)
    for image, target in enumerate(views.labeled.targets):
        mine = (rows.image_index == image) & (rows.label_index >= 0)
        assert torch.equal(rows.labels[mine], target.gt_classes[rows.label_index[mine]])
    empty = outputs.unlabeled.rows
    assert empty is not None and (empty.labels == 3).all()


def test_row_weights_of_methods_reach_the_loss() -> None:
    from dataclasses import replace

    _, adapter, views = run_views("deformable")
    outputs = adapter.run(views).labeled
    full = adapter.losses(outputs)
    silent = replace(outputs, cls_weights=0 * outputs.cls_weights)
    less = adapter.losses(silent)
    assert float(less["loss_cls"].detach()) == 0.0
    assert torch.equal(less["loss_cls_aux"], full["loss_cls_aux"])
    assert torch.equal(less["loss_bbox"], full["loss_bbox"])


@pytest.mark.parametrize("kind", BOTH)
def test_stored_labels_have_one_class_a_query(kind: str, tmp_path: Path) -> None:
    cfg = detr_cfg(kind)
    torch.save({"model": build(kind).state_dict()}, tmp_path / "model.pth")
    model = _build(cfg, str(tmp_path / "model.pth"), False, None)
    with torch.no_grad():
        (found,) = model([{"image": inputs()[0]["image"]}])
    assert 0 < len(found["instances"]) <= 20


@pytest.mark.parametrize("kind", BOTH)
def test_detections_are_labels(kind: str) -> None:
    student, adapter, views = run_views(kind)
    student.eval()
    with torch.no_grad():
        found = adapter.detect(student, views.labeled.images, 0.0)
        evaluated = student.inference([{"image": i} for i in views.labeled.images])
    assert found.maps is not None and found.maps.num_images == 2
    for row, other in zip(found.detections, evaluated):
        assert 0 < len(row) <= 20  # one a query
        assert len(other["instances"]) > 20
        assert row.image_size == (64, 64) and (row.scores > 0).all()
    with torch.no_grad():
        assert not len(adapter.detect(student, views.labeled.images, 0.9).detections[0])


@pytest.mark.parametrize("kind", BOTH)
def test_pseudo_boxes_regress_only_if_asked(kind: str) -> None:
    keys = ("SSOD.SCORE_THRESHOLD", 0.0, "SSOD.PSEUDO_SCORE_FLOOR", 0.0)
    plain = step(build_core(kind, UNBIASED, *keys), batch())
    asked = step(build_core(kind, (*UNBIASED, "PseudoBoxRegression"), *keys), batch())
    boxes = [n for n in plain if "cls" not in n and n.endswith("_unlabeled")]
    assert boxes and all(float(plain[name].detach()) == 0.0 for name in boxes)
    assert all(float(asked[name].detach()) > 0.0 for name in boxes)


@pytest.mark.parametrize("kind", BOTH)
def test_a_step_without_pseudo_labels(kind: str) -> None:
    losses = step(build_core(kind, UNBIASED, "SSOD.SCORE_THRESHOLD", 0.999), batch())
    assert all(torch.isfinite(loss) for loss in losses.values())
    burn_in = step(build_core(kind), batch(unlabeled=0))
    assert {f"{name}_unlabeled" for name in burn_in} | set(burn_in) == set(losses)


def run_cfg(kind: str, squares: Path, output: Path, methods: Tuple[str, ...]) -> CfgNode:
    cfg = with_squares(detr_cfg(kind), squares, output, methods)
    # An untrained detector's scores lie around the prior, 0.01.
    cfg.merge_from_list(["SOLVER.MAX_ITER", 4, "SSOD.BURN_IN_STEPS", 1])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "SSOD.SNAPSHOT_DELAY", 2])
    cfg.merge_from_list(["SSOD.PSEUDO_SCORE_FLOOR", 0.001, "SSOD.SCORE_THRESHOLD", 0.01])
    cfg.merge_from_list(["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 1e-4])
    return cfg


METHODS = {
    "labels only": ("ScoreThreshold", "PseudoBoxRegression", "CropBank"),
    "maps": ("TwoStageFilter",),
}


@pytest.mark.trains
@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("kind", BOTH)
def test_online_run_resumes_to_the_bit(
    squares: Path, tmp_path: Path, kind: str, methods: str
) -> None:
    names = METHODS[methods]

    def cfg_in(folder: str) -> CfgNode:
        cfg = run_cfg(kind, squares, tmp_path / folder, names)
        if kind == "rt_detr":  # running statistics are state too
            cfg.MODEL.RT_DETR.NORM = "BN"
        if methods == "maps":
            cfg.SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD = 0.01
        return cfg

    whole = train(cfg_in("whole"))
    assert all(torch.isfinite(value).all() for value in state_of(whole).values())
    assert max(v for v, _ in whole.storage.history("pseudo/boxes_per_image").values()) > 0
    train(cfg_in("parts"))
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts = train(cfg_in("parts"), resume=True)
    assert parts.start_iter == 2
    assert digest(state_of(whole)) == digest(state_of(parts))


def test_teacher_takes_the_students_running_statistics(squares: Path, tmp_path: Path) -> None:
    cfg = run_cfg("rt_detr", squares, tmp_path, UNBIASED)
    cfg.MODEL.RT_DETR.NORM = "BN"
    core = train(cfg).core
    for own, other in zip(core.student.buffers(), core.teacher.buffers()):
        assert torch.equal(own, other)
    means = [b for n, b in core.student.named_buffers() if n.endswith("running_mean")]
    assert means and any(mean.any() for mean in means)


@pytest.mark.trains
@pytest.mark.parametrize("kind", BOTH)
def test_bfloat16_run(squares: Path, tmp_path: Path, kind: str) -> None:
    cfg = run_cfg(kind, squares, tmp_path, UNBIASED)
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"])
    state = state_of(train(cfg))
    assert all(torch.isfinite(value).all() for value in state.values())
