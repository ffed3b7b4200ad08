"""LSM on Deformable DETR: PIM's labels matched by the main branch, learned at half size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from detections import stored_sample
from detr_case import detr_cfg
from runs import digest, state_of, train
from ssod.deploy.plain import export
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods.lsm.distillation import bernoulli_distillation_loss
from ssod.methods.lsm.paired import paired_losses, run_paired
from ssod.methods.shared.half_size import HALF_SIZE
from ssod.structures import SSODBatch
from steps import core_of
from tiny import make_sample, with_squares

pytest.importorskip("transformers")
LSM = ("ScoreThreshold", "PseudoBoxRegression", "PIM", "SelfDistillation")


def build_core(
    kind: str = "deformable", methods: Tuple[str, ...] = LSM, *keys: Any
) -> TeacherStudent:
    own = ["SSOD.METHODS", methods, "SSOD.PSEUDO_LABELS", "stored.json"]
    return core_of(detr_cfg(kind, *own, *keys))


def step(core: TeacherStudent, *scores: Tuple[float, ...]) -> Tuple[Dict[str, Tensor], Any]:
    """Losses of a step on images with stored labels of these scores, and the student's outputs."""
    samples = [stored_sample(21 + index, own) for index, own in enumerate(scores)]
    kept = []
    run = core.run_student
    core.run_student = lambda views: kept.append(run(views)) or kept[0]  # type: ignore
    with EventStorage():
        losses = core(SSODBatch([make_sample(1, True)], samples))
    del core.run_student
    return losses, kept[0]


def value(losses: Dict[str, Tensor], name: str) -> float:
    return float(losses[name].detach())


def test_labels_between_the_thresholds_are_mined() -> None:
    core = build_core()
    mined, _ = step(core, (0.6,), (0.9,))
    certain, _ = step(core, (), (0.9,))
    low, _ = step(core, (0.4,), (0.9,))
    # The main branch leaves 0.6 out, PIM leaves out what is not above alpha 0.5.
    for name in ("loss_bbox_unlabeled", "loss_giou_unlabeled"):
        assert value(mined, name) == pytest.approx(value(certain, name), rel=1e-5)
    for name in ("loss_cls_pim", "loss_bbox_pim", "loss_giou_pim"):
        assert math.isfinite(value(mined, name)) and value(mined, name) > 0
        assert value(low, name) == pytest.approx(value(certain, name), rel=1e-4)
        assert value(mined, name) != pytest.approx(value(certain, name), rel=1e-3)
    # Only the label in the interval is distilled. The heads start alike, but not on alike images.
    assert value(certain, "loss_self_distillation") == 0.0
    assert value(mined, "loss_self_distillation") > 0.0


def test_no_label_at_all() -> None:
    losses, _ = step(build_core(), (), ())
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert value(losses, "loss_bbox_pim") == value(losses, "loss_self_distillation") == 0.0
    assert value(losses, "loss_cls_pim") > 0.0  # background
    torch.stack(list(losses.values())).sum().backward()


def test_the_main_branchs_matching_is_imposed() -> None:
    core = build_core()
    _, outputs = step(core, (0.6,), (0.9,))
    main, half = outputs.unlabeled.predictions, outputs.extra[HALF_SIZE]
    targets = outputs.unlabeled.view.pseudo.to_targets()
    criterion = core.student.criterion
    # The half-size boxes would choose others: they are mirrored.
    half.decoder.boxes = main.decoder.boxes.flip(2)
    pairs = run_paired(criterion, outputs, targets, None)
    own = criterion.match(main.decoder.logits, main.decoder.boxes, pairs.labels)
    assert torch.equal(pairs.assignment, own)
    other = criterion.match(half.decoder.logits, half.decoder.boxes, pairs.labels)
    assert not torch.equal(own, other)
    assert torch.equal(pairs.logits, half.decoder.logits)  # without heads of its own
    assert pairs.assignment.shape == (3, 2, 20)
    found = paired_losses(criterion, pairs)
    wanted = criterion.losses(
        half.decoder.logits, half.decoder.boxes, pairs.labels, own, pairs.count
    )
    assert all(torch.equal(found[name], wanted[name].sum()) for name in found)


def test_the_auxiliary_classifier_is_pims() -> None:
    core = build_core()
    losses, outputs = step(core, (0.6,), (0.9,))
    core.zero_grad()
    losses["loss_cls_pim"].backward()
    own = [p.grad for p in core.methods["PIM"].parameters()]
    assert own and all(g is not None and g.abs().sum() > 0 for g in own)
    assert all(h.weight.grad is None for h in core.student.class_heads())
    # Its box heads and everything below are the main branch's.
    losses, _ = step(core, (0.6,), (0.9,))
    core.zero_grad()
    losses["loss_bbox_pim"].backward()
    boxes = core.student.detr.bbox_embed[0].layers[-1].weight.grad
    assert boxes is not None and boxes.abs().sum() > 0
    assert len(outputs.extra) == 1 and not core.teacher.state_dict().keys() - set(
        core.student.state_dict()
    )


def test_divergence_by_hand() -> None:
    main, aux = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    p = 1 / (1 + math.exp(-2.0))
    wanted = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert float(bernoulli_distillation_loss(main, aux)) == pytest.approx(wanted, rel=1e-5)
    empty = torch.zeros((0, 2), requires_grad=True)
    loss = bernoulli_distillation_loss(empty, empty)
    loss.backward()
    assert float(loss.detach()) == 0.0
    # Both sides learn.
    one, other = main.requires_grad_(), aux.requires_grad_()
    bernoulli_distillation_loss(one, other).backward()
    assert one.grad is not None and other.grad is not None
    assert float(one.grad[0, 0]) < 0 < float(other.grad[0, 0])


def test_mlc_learns_the_main_labels_with_the_main_classifier() -> None:
    core = build_core("deformable", ("ScoreThreshold", "PseudoBoxRegression", "MLC"))
    losses, _ = step(core, (0.6,), (0.9,))
    certain, _ = step(core, (), (0.9,))
    assert value(losses, "loss_bbox_mlc") == pytest.approx(
        value(certain, "loss_bbox_mlc"), rel=1e-4
    )
    core.zero_grad()
    losses["loss_cls_mlc"].backward()
    assert core.student.class_heads()[0].weight.grad is not None


@pytest.mark.parametrize(
    "kind, family", [("two_stage", "two-stage Deformable DETR"), ("rt_detr", "RT-DETR v2")]
)
def test_queries_of_the_encoder_are_refused(kind: str, family: str) -> None:
    with pytest.raises(UserError, match=f"PIM needs .* which {family} does not have; it runs on"):
        build_core(kind)


@pytest.mark.trains
def test_online_run_resumes_to_the_bit(squares: Path, tmp_path: Path) -> None:
    def cfg_in(folder: str) -> Any:
        cfg = with_squares(detr_cfg("refine"), squares, tmp_path / folder, LSM)
        cfg.merge_from_list(["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2])
        cfg.merge_from_list(["SSOD.BURN_IN_STEPS", 1, "SSOD.PSEUDO_SCORE_FLOOR", 0.001])
        cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", 0.02, "SSOD.PIM.SCORE_THRESHOLD", 0.005])
        cfg.merge_from_list(["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 1e-4])
        return cfg

    whole = train(cfg_in("whole"))
    for name in ("PIM", "SelfDistillation"):
        assert max(v for v, _ in whole.storage.history(f"activity/{name}").values()) > 0
    train(cfg_in("parts"))
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts = train(cfg_in("parts"), resume=True)
    assert digest(state_of(whole)) == digest(state_of(parts))
    # The exported model has nothing of PIM.
    _, weights, _ = export(cfg_in("whole"), str(tmp_path / "whole"), str(tmp_path / "out"))
    names = set(torch.load(weights, weights_only=True)["model"])
    assert names == set(whole.core.student.state_dict())
