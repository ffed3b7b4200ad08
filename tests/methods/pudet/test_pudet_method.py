"""BoundedDistillation in a step: its teachers, the RoIs that it compares, and the steps without a
loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from runs import digest, state_of, train
from ssod.engine.setup import load_config
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY, build_methods
from ssod.methods.pudet.proposals import label_proposals
from ssod.plotting.run_data import load_runs
from ssod.structures import SSODBatch
from steps import batch, core_of
from tiny import make_sample, tiny_cfg, with_squares

NAMES = {"loss_bounded_hint", "loss_bounded_cls", "loss_bounded_box"}


def distil_cfg(methods: Tuple[str, ...] = ("ScoreThreshold", "BoundedDistillation")) -> CfgNode:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = methods
    cfg.SSOD.SCORE_THRESHOLD = 0.05
    cfg.SSOD.BURN_IN_STEPS = 0
    return cfg


def two_sizes(labeled: int = 2, unlabeled: int = 2) -> SSODBatch:
    """A batch in which each labelled image is 32 pixels wider than the one before."""
    own = [make_sample(i, True, (64, 64 + 32 * i)) for i in range(labeled)]
    return SSODBatch(own, batch(0, unlabeled).unlabeled)


@pytest.fixture(scope="module")
def wide_teacher(tmp_path_factory: pytest.TempPathFactory) -> Tuple[str, str]:
    """(config, weights) of a teacher whose maps have more channels than the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    cfg = tiny_cfg()
    cfg.MODEL.FPN.OUT_CHANNELS = 48
    (folder / "teacher.yaml").write_text(cfg.dump())
    torch.manual_seed(5)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "teacher.pth")
    return str(folder / "teacher.yaml"), str(folder / "teacher.pth")


def frozen(cfg: CfgNode, teacher: Tuple[str, str]) -> CfgNode:
    node = cfg.SSOD.BOUNDED_DISTILLATION
    node.TEACHER, (node.TEACHER_CONFIG, node.TEACHER_WEIGHTS) = "frozen", teacher
    return cfg


def test_all_losses_reach_student_and_adapters(storage: Any) -> None:
    core = core_of(distil_cfg())
    for parameter in core.student.parameters():
        parameter.data.mul_(1.1)  # else it has nothing to learn
    losses = core(two_sizes())
    assert NAMES <= set(losses) and all(torch.isfinite(loss) for loss in losses.values())
    torch.stack([losses[name] for name in NAMES]).sum().backward()
    assert core.student.backbone.bottom_up.stem.weight.grad.abs().sum() > 0
    adapters = core.methods["BoundedDistillation"].adapters
    assert set(adapters) == {"p2", "p3", "p4", "p5", "p6"}
    assert any(p.grad is not None and p.grad.any() for p in adapters.parameters())
    assert all(p.grad is None for p in core.teacher.parameters())
    latest = storage.latest()
    assert 0 < latest["bounded_distillation/imitation_share"][0] < 1
    assert 0 <= latest["bounded_distillation/correct_share"][0] <= 1


def test_a_student_that_equals_its_teacher_has_nothing_to_learn(storage: Any) -> None:
    """The moving average starts as a copy and the adapters as the identity."""
    core = core_of(distil_cfg())
    losses = core(two_sizes())
    assert all(losses[name].item() == pytest.approx(0.0, abs=1e-5) for name in NAMES)


def test_teacher_sees_the_students_images(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssod.methods.pudet import method

    seen = []
    extract = method.extract_features
    monkeypatch.setattr(
        method,
        "extract_features",
        lambda model, images, groups: seen.append((model, list(images)))
        or extract(model, images, groups),
    )
    core = core_of(distil_cfg())
    step = two_sizes()
    core(step)
    ((teacher, images),) = seen
    assert teacher is core.teacher and not teacher.training
    wanted = [s.strong for s in step.labeled] + [s.weak for s in step.labeled]
    wanted += [s.strong for s in step.unlabeled]
    assert len(images) == 6 and all(torch.equal(a, b) for a, b in zip(images, wanted))


@pytest.mark.parametrize("off", ["HINT", "CLS", "BOX"])
def test_each_loss_is_switchable(storage: Any, off: str) -> None:
    cfg = distil_cfg()
    cfg.SSOD.BOUNDED_DISTILLATION[off] = False
    core = core_of(cfg)
    assert NAMES & set(core(two_sizes())) == NAMES - {f"loss_bounded_{off.lower()}"}
    assert bool(core.methods["BoundedDistillation"].adapters) == (off != "HINT")


def test_weights_multiply(storage: Any, wide_teacher: Tuple[str, str]) -> None:
    found: Dict[float, Dict[str, float]] = {}
    for factor in (1.0, 3.0):
        torch.manual_seed(2)
        cfg = frozen(distil_cfg(), wide_teacher)
        cfg.SSOD.BOUNDED_DISTILLATION.HINT_WEIGHT = factor
        cfg.SSOD.BOUNDED_DISTILLATION.KD_WEIGHT = factor
        core = core_of(cfg)
        torch.manual_seed(2)
        found[factor] = {k: v.item() for k, v in core(two_sizes()).items() if k in NAMES}
    assert all(found[1.0][name] > 0 for name in NAMES - {"loss_bounded_cls"})
    for name in NAMES:
        assert found[3.0][name] == pytest.approx(3 * found[1.0][name], rel=1e-4)


def test_hint_by_hand(storage: Any, wide_teacher: Tuple[str, str]) -> None:
    """Labelled images alone: Eq. 11 written out with loops over images, levels and locations."""
    from ssod.detectors.features import extract_features
    from ssod.methods.pudet import imitation_mask

    cfg = frozen(distil_cfg(), wide_teacher)
    core = core_of(cfg)
    step = SSODBatch([make_sample(3, True)], [])
    loss = core(step)["loss_bounded_hint"]
    method = core.methods["BoundedDistillation"]
    teacher = method.frozen.on(torch.device("cpu"))
    error, count = 0.0, 0
    with torch.no_grad():
        for image in (step.labeled[0].strong, step.labeled[0].weak):
            ours = extract_features(core.student, [image]).groups[0].features
            theirs = extract_features(teacher, [image]).groups[0].features
            levels = list(ours)
            anchors = core.student.proposal_generator.anchor_generator([ours[n] for n in levels])
            for name, boxes in zip(levels, anchors):
                inside = imitation_mask(boxes.tensor, step.labeled[0].instances.gt_boxes.tensor)
                adapted = method.adapters[name](ours[name])
                height, width = ours[name].shape[2:]
                per_cell = len(inside) // (height * width)
                for cell in range(height * width):
                    if inside[cell * per_cell : (cell + 1) * per_cell].any():
                        y, x = divmod(cell, width)
                        difference = adapted[0, :, y, x] - theirs[name][0, :, y, x]
                        error += float(difference.pow(2).sum())
                        count += 48
    assert loss.item() == pytest.approx(error / (2 * count), rel=1e-3)


def test_images_without_boxes_give_zero_hint_and_box(
    storage: Any, wide_teacher: Tuple[str, str]
) -> None:
    core = core_of(frozen(distil_cfg(), wide_teacher))
    step = SSODBatch([make_sample(0, True)], [])
    assert step.labeled[0].instances is not None
    step.labeled[0].instances = step.labeled[0].instances[:0]
    losses = core(step)
    assert losses["loss_bounded_hint"].item() == 0 and losses["loss_bounded_box"].item() == 0
    torch.stack(list(losses.values())).sum().backward()
    for parameter in core.student.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_images_of_many_sizes(storage: Any, norm: str) -> None:
    """The teacher pads as the student does; with live batch norm both put all images into one
    batch.
    """
    cfg = distil_cfg()
    cfg.MODEL.RESNETS.NORM = norm
    core = core_of(cfg)
    step = SSODBatch(
        [make_sample(0, True, (64, 128)), make_sample(1, True, (64, 64))],
        [make_sample(3, False, (160, 64)), make_sample(4, False, (64, 64))],
    )
    losses = core(step)
    assert all(torch.isfinite(losses[name]) for name in NAMES)
    if norm == "GN":  # live batch norm is another function in eval mode
        assert all(losses[name].item() == pytest.approx(0.0, abs=1e-5) for name in NAMES)


def test_moving_average_teaches_after_burn_in_only(storage: Any) -> None:
    cfg = distil_cfg()
    cfg.SSOD.BURN_IN_STEPS = 5
    core = core_of(cfg)
    core.teacher.backbone.fpn_lateral2.weight.data.add_(0.5)
    core.step = 4
    assert all(core(two_sizes(2, 0))[name].item() == 0 for name in NAMES)
    core.step = 5
    assert core(two_sizes(2, 0))["loss_bounded_hint"].item() > 0


@pytest.mark.parametrize("labeled, unlabeled", [(2, 0), (0, 2)])
def test_one_stream_alone(storage: Any, labeled: int, unlabeled: int) -> None:
    core = core_of(distil_cfg())
    losses = core(two_sizes(labeled, unlabeled))
    assert NAMES <= set(losses)
    assert ("loss_cls" in losses) == bool(labeled)
    assert ("loss_cls_unlabeled" in losses) == bool(unlabeled)
    torch.stack(list(losses.values())).sum().backward()
    missing = [n for n, p in core.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing  # DDP would wait for them


@pytest.mark.trains
def test_frozen_teacher_is_outside_of_everything(
    squares: Path, tmp_path: Path, wide_teacher: Tuple[str, str]
) -> None:
    cfg = frozen(with_squares(distil_cfg(), squares, tmp_path / "run"), wide_teacher)
    cfg.SSOD.METHODS = ("BoundedDistillation",)  # Table 3: labelled images alone
    cfg.SOLVER.MAX_ITER = 3
    trainer = train(cfg)
    method = trainer.core.methods["BoundedDistillation"]
    teacher = method.frozen.on(torch.device("cpu"))
    ours = {id(p) for p in trainer.core.parameters()}
    optimised = {
        id(p) for group in trainer._trainer.optimizer.param_groups for p in group["params"]
    }
    assert not teacher.training
    assert all(id(p) not in ours | optimised and not p.requires_grad for p in teacher.parameters())
    assert set(method.state_dict()) == {
        f"adapters.p{level}.{part}" for level in range(2, 7) for part in ("weight", "bias")
    }
    weights = torch.load(wide_teacher[1], weights_only=True)["model"]
    assert all(torch.equal(v, weights[k]) for k, v in teacher.state_dict().items() if k in weights)
    assert method.adapters["p2"].weight.shape == (48, 32, 3, 3)
    saved = torch.load(tmp_path / "run" / "teacher_final.pth", weights_only=True)["model"]
    assert not any("adapters" in key for key in saved)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"TEACHER": "frosen"}, "frozen"),
        ({"TEACHER": "frozen"}, "TEACHER_WEIGHTS"),
        ({"TEMPERATURE": 0.0}, "TEMPERATURE"),
        ({"IMITATION_RATIO": 1.0}, "IMITATION_RATIO"),
        ({"NUM_PROPOSALS": 0}, "NUM_PROPOSALS"),
        ({"HINT": False, "CLS": False, "BOX": False}, "switch one on"),
    ],
)
def test_wrong_keys_are_one_line(keys: Dict[str, Any], message: str) -> None:
    cfg = distil_cfg()
    for key, value in keys.items():
        cfg.SSOD.BOUNDED_DISTILLATION[key] = value
    with pytest.raises(UserError, match=message) as error:
        build_methods(cfg)
    assert "\n" not in str(error.value)


def test_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    other = tiny_cfg()
    other.MODEL.ROI_HEADS.NUM_CLASSES = 7
    (tmp_path / "other.yaml").write_text(other.dump())
    with pytest.raises(UserError, match="NUM_CLASSES 7"):
        build_methods(frozen(distil_cfg(), (str(tmp_path / "other.yaml"), "weights.pth")))


def test_teacher_with_the_other_channel_order(storage: Any, tmp_path: Path) -> None:
    """The student's own copy that wants RGB: it finds what the student does when its first layer is
    turned round too.
    """
    cfg = distil_cfg()
    core = core_of(cfg)
    state = core.student.state_dict()
    state["backbone.bottom_up.stem.weight"] = state["backbone.bottom_up.stem.weight"].flip(1)
    state = {k: v for k, v in state.items() if not k.startswith("pixel")}
    other = tiny_cfg()
    other.INPUT.FORMAT = "RGB"
    other.MODEL.PIXEL_MEAN = list(reversed(other.MODEL.PIXEL_MEAN))
    (tmp_path / "rgb.yaml").write_text(other.dump())
    torch.save({"model": state}, tmp_path / "rgb.pth")
    cfg = frozen(cfg, (str(tmp_path / "rgb.yaml"), str(tmp_path / "rgb.pth")))
    losses = TeacherStudent.from_config(cfg, core.student, build_methods(cfg))(two_sizes())
    assert losses["loss_bounded_hint"].item() == pytest.approx(0.0, abs=1e-6)


def test_resnet_18_learns_from_resnet_50(
    storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table 3's second setting, from its own config; the teacher's pyramid is twice as wide."""
    monkeypatch.chdir(Path(__file__).parents[3])
    path = "configs/digit_scenes/pudet/teacher_r50.yaml"
    teacher = build_model(load_config(path))
    weights = str(tmp_path / "teacher.pth")
    torch.save({"model": teacher.state_dict()}, weights)
    keys = ["SSOD.BOUNDED_DISTILLATION.TEACHER_WEIGHTS", weights]
    core = core_of(load_config("configs/digit_scenes/pudet/r18_under_r50.yaml", keys))
    assert teacher.backbone.output_shape()["p2"].channels == 128
    assert core.student.backbone.output_shape()["p2"].channels == 64
    losses = core(two_sizes(unlabeled=0))
    total = torch.stack([losses[name] for name in NAMES]).sum()
    total.backward()
    assert torch.isfinite(total) and losses["loss_bounded_hint"] > 0
    assert core.student.backbone.bottom_up.stem.conv1.weight.grad.abs().sum() > 0


def test_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    method = METHOD_REGISTRY.get("BoundedDistillation")
    assert method.report_section(load_runs([str(tmp_path)])[0]) is None
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 1, "bounded_distillation/correct_share": 0.6}\n'
    )
    section = method.report_section(load_runs([str(tmp_path)])[0])
    assert "classifies rightly" in section.html and "imitation region" not in section.html


@pytest.mark.trains
def test_missing_teacher_is_noticed_at_start(squares: Path, tmp_path: Path) -> None:
    cfg = frozen(with_squares(distil_cfg(), squares, tmp_path / "run"), ("", "nowhere.pth"))
    cfg.SSOD.METHODS = ("BoundedDistillation",)
    with pytest.raises(UserError, match="nowhere.pth"):
        train(cfg)


@pytest.mark.trains
def test_alternating_run_resumes_to_the_bit(
    squares: Path, tmp_path: Path, wide_teacher: Tuple[str, str]
) -> None:
    def cfg(name: str) -> CfgNode:
        methods = ("ScoreThreshold", "PseudoBoxRegression", "BoundedDistillation")
        built = frozen(with_squares(distil_cfg(), squares, tmp_path / name, methods), wide_teacher)
        built.SSOD.ALTERNATE_STREAMS = True
        built.merge_from_list(["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 3])
        return built

    whole = train(cfg("whole"))
    # Step 5 is labelled: hooks that draw keep what step 4 had.
    assert not whole.core.last_batch.labeled and len(whole.core.last_batch.unlabeled) == 2
    assert whole.core.last_pseudo is not None
    train(cfg("parts"))
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000002.pth")
    parts = train(cfg("parts"), resume=True)
    assert parts.start_iter == 3
    assert digest(state_of(whole)) == digest(state_of(parts))


def test_proposals_are_labelled_by_hand() -> None:
    heads = build_model(tiny_cfg()).roi_heads
    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(
        torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 50], [0, 0, 10, 8]])
    )
    target = Instances((64, 64))
    target.gt_boxes = Boxes(torch.tensor([[0.0, 0, 10, 12]]))
    target.gt_classes = torch.tensor([2])
    empty = Instances((64, 64))
    empty.gt_boxes, empty.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    found = label_proposals(heads, [proposals, proposals], [target, empty], 512)
    rows = {
        tuple(b): (int(c), tuple(t))
        for b, c, t in zip(
            found.boxes[0].tensor.tolist(), found.labels[:3], found.gt_boxes[:3].tolist()
        )
    }
    assert rows == {
        (0, 0, 10, 10): (2, (0, 0, 10, 12)),
        (0, 0, 10, 8): (2, (0, 0, 10, 12)),
        (30, 30, 50, 50): (3, (30, 30, 50, 50)),
    }
    assert found.labels[3:].tolist() == [3, 3, 3]
    assert len(label_proposals(heads, [proposals], [target], 1).labels) == 1
