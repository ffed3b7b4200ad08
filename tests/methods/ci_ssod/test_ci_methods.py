"""GbR, GbT, CrS and the comparators inside the step and in runs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Dict, List, Optional

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor

from runs import digest, method_cfg, state_of, train
from ssod.data.catalog import load_labeled
from ssod.data.loader import build_train_loader
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import TrainingData, build_methods
from ssod.methods.ci_ssod import (
    ClassRebalancingSampling,
    GradientReweighting,
    GradientThresholding,
    LabelMatchThresholds,
    gradient_matrix,
    image_repeat_factors,
)
from ssod.methods.ci_ssod.label_memory import LabelMemory
from ssod.modeling.outputs import Outputs
from ssod.structures import PseudoLabels, SSODBatch
from tiny import make_sample, tiny_cfg

GBR, GBT, CRS = "GradientReweighting", "GradientThresholding", "ClassRebalancingSampling"


def build(methods: tuple[str, ...], *keys: Any) -> TeacherStudent:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = methods
    cfg.merge_from_list(["SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 0, *keys])
    torch.manual_seed(0)
    return TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))


def batch(labeled: int = 2, unlabeled: int = 2) -> SSODBatch:
    return SSODBatch(
        [make_sample(i, True) for i in range(labeled)],
        [make_sample(10 + i, False) for i in range(unlabeled)],
    )


def labels_of(rows: List[List[tuple[int, float]]], selected: float = 0.0) -> PseudoLabels:
    """(class, score) pairs of each image; those with a score of at least `selected` are selected."""
    found = []
    for row in rows:
        instances = Instances((64, 64))
        instances.gt_classes = torch.tensor([c for c, _ in row], dtype=torch.int64)
        instances.scores = torch.tensor([s for _, s in row])
        instances.selected = instances.scores >= selected
        found.append(instances)
    return PseudoLabels(found)


class Spy:
    """Keeps the outputs that a method's `update` gets."""

    def __init__(self, method: Any) -> None:
        self.outputs: Optional[Outputs] = None
        original = method.update

        def update(outputs: Outputs, pseudo: Any, context: Any) -> None:
            self.outputs = outputs
            original(outputs, pseudo, context)

        method.update = update


# ---------------------------------------------------------------- GbR


def test_reweighting_weighs_streams_and_measures_without_its_own_weights(storage: Any) -> None:
    core = build(
        ("ScoreThreshold", GBR), "SSOD.SCORE_THRESHOLD", 0.05, "SSOD.UNSUP_LOSS_WEIGHT", 3.0
    )
    gbr = core.methods[GBR]
    gbr.balance.logits.copy_(torch.tensor([0.5, -0.5, 0.2, 0.0]))
    weights = 4 * torch.softmax(torch.tensor([0.5, -0.5, 0.2, 0.0]), 0)
    spy = Spy(gbr)
    core(batch())
    outputs = spy.outputs
    assert outputs is not None and outputs.unlabeled is not None
    labeled, unlabeled = outputs.labeled, outputs.unlabeled
    assert torch.allclose(labeled.cls_weights, weights[labeled.labels].sqrt())
    assert torch.allclose(unlabeled.cls_weights, weights[unlabeled.labels])
    wanted = torch.zeros(4, 4)
    for view, factor in ((labeled, 1.0), (unlabeled, 3.0)):
        wanted += factor / len(view.labels) * gradient_matrix(view.predictions.logits, view.labels)
    assert torch.allclose(gbr.balance.gradients, (1 - 0.9995) * wanted, atol=1e-8)


def test_other_methods_roi_weights_stay_in_the_matrix(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR, "Toy"), "SSOD.GRADIENT_REWEIGHTING.EMA_DECAY", 0.0)
    spy = Spy(core.methods[GBR])
    core(batch())
    assert spy.outputs is not None and spy.outputs.unlabeled is not None
    view = spy.outputs.unlabeled
    assert (view.cls_weights[view.labels == 3] == 0.5).all()  # Toy halves background
    without = build(("ScoreThreshold", GBR), "SSOD.GRADIENT_REWEIGHTING.EMA_DECAY", 0.0)
    without(batch())
    found = core.methods[GBR].balance.gradients
    assert not torch.allclose(found, without.methods[GBR].balance.gradients, rtol=1e-3)


def test_weights_are_one_during_warm_up_and_move_after_it(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR), "SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 2)
    balance = core.methods[GBR].balance
    core(batch())
    assert balance.weights.tolist() == [1.0] * 4
    assert balance.gradients.any()
    core(batch())
    assert (balance.weights != 1).any()
    assert float(balance.weights.sum()) == pytest.approx(4.0)


def test_direct_solver_gives_the_clamped_solution(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR), "SSOD.GRADIENT_REWEIGHTING.SOLVER", "direct")
    core(batch())
    balance = core.methods[GBR].balance
    assert float(balance.weights.sum()) == pytest.approx(4.0, rel=1e-5)
    ratio = balance.weights.max() / balance.weights.min()
    assert 1.0 < float(ratio) <= 15.0 + 1e-3  # bounds 1/3 and 5


def test_burn_in_and_a_stream_without_images(storage: Any) -> None:
    core = build((GBR, GBT))
    losses = core(batch(unlabeled=0))
    assert torch.isfinite(sum(losses.values()))
    assert core.methods[GBR].balance.gradients.any()
    gbt = core.methods[GBT]
    assert not gbt.score_means.any()


@pytest.mark.parametrize(
    "keys, words",
    [
        (("SSOD.GRADIENT_REWEIGHTING.SOLVER", "lu"), "SOLVER"),
        (("SSOD.GRADIENT_REWEIGHTING.BOUNDS", (2.0, 5.0)), "BOUNDS"),
        (("SSOD.GRADIENT_REWEIGHTING.EMA_DECAY", 1.0), "EMA_DECAY"),
        (("SSOD.GRADIENT_REWEIGHTING.BETA", -1.0), "BETA"),
        (("SSOD.GRADIENT_THRESHOLDING.LOW", 0.95), "LOW"),
        (
            (
                "SSOD.GRADIENT_THRESHOLDING.USE_SCORE",
                False,
                "SSOD.GRADIENT_THRESHOLDING.USE_GRADIENT",
                False,
            ),
            "ScoreThreshold",
        ),
        (("SSOD.GRADIENT_REWEIGHTING.LR", 0.0), "LR is 0.0"),
        (("SSOD.GRADIENT_REWEIGHTING.LR", 2.5), "at most 2.0"),  # 3 classes
        (("SSOD.GRADIENT_THRESHOLDING.EMA_DECAY", 1.0), "THRESHOLDING.EMA_DECAY"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.LABELED_REPEAT_THRESHOLD", -0.1), "LABELED_REPEAT"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.GENERATIONS", 0), "GENERATIONS"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.GAMMA", -0.5), "GAMMA"),
    ],
)
def test_bad_keys_are_one_line(keys: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        build((GBR, GBT, CRS), *keys)
    assert "\n" not in str(error.value)


def test_bad_keys_of_the_comparators_are_one_line() -> None:
    for method, key, value in (
        ("LabelMatchThresholds", "SSOD.LABEL_MATCH.INITIAL_THRESHOLD", 1.5),
        ("LabelMatchThresholds", "SSOD.LABEL_MATCH.EMA_DECAY", 1.0),
        ("RepeatFactorSampling", "SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD", -0.1),
    ):
        with pytest.raises(UserError, match=f"{key} is {value}: use") as error:
            build((method,), key, value)
        assert "\n" not in str(error.value)


# ---------------------------------------------------------------- GbT


def test_thresholding_alone_has_the_same_weights_as_with_reweighting(storage: Any) -> None:
    """Over one step, before weights change what is learnt."""
    keys = ("SSOD.GRADIENT_REWEIGHTING.LR", 0.5)
    alone, both, swapped = build((GBT,), *keys), build((GBR, GBT), *keys), build((GBT, GBR), *keys)
    for core in (alone, both, swapped):
        core(batch())
    weights = alone.methods[GBT].balance.weights
    assert (weights != 1).any()
    for core in (both, swapped):
        assert core.methods[GBT].balance is None
        assert torch.equal(core.methods[GBR].balance.weights, weights)


def test_thresholds_select_by_class(storage: Any) -> None:
    core = build((GBR, GBT))
    core.methods[GBR].balance.logits.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    gbt = core.methods[GBT]
    weight = float(4 * torch.softmax(torch.tensor([1.0, 0.0, 0.0, 0.0]), 0)[0])
    assert weight > 1.8  # theta / w < 0.5
    pseudo = labels_of([[(0, 0.51), (0, 0.49), (1, 0.89), (1, 0.91)], []])
    context = type("Context", (), {"methods": {GBR: core.methods[GBR]}})()
    selected = gbt.refine(pseudo, context).instances
    assert selected[0].selected.tolist() == [True, False, False, True]
    assert not len(selected[1].selected)


def test_score_means_start_with_the_first_batch_and_skip_absent_classes() -> None:
    core = build((GBT,), "SSOD.GRADIENT_THRESHOLDING.EMA_DECAY", 0.75)
    gbt = core.methods[GBT]
    assert isinstance(gbt, GradientThresholding) and gbt.balance is not None
    gbt.balance.update = lambda outputs, applied=None: None  # type: ignore[method-assign]
    context: Any = None
    gbt.update(None, labels_of([[(0, 0.2), (0, 0.4)], [(1, 0.8)]]), context)  # type: ignore[arg-type]
    assert gbt.score_means.tolist() == pytest.approx([0.3, 0.8, 0.0])
    gbt.update(None, labels_of([[(0, 0.7)], []]), context)  # type: ignore[arg-type]
    assert gbt.score_means.tolist() == pytest.approx([0.75 * 0.3 + 0.25 * 0.7, 0.8, 0.0])
    # The mean of the seen ones is 0.6; the third class has the gradient term alone, w = 1.
    assert gbt.thresholds(context).tolist() == pytest.approx([0.6, 0.9, 0.9])


def test_label_match_follows_the_labelled_counts() -> None:
    core = build(("LabelMatchThresholds",), "SSOD.LABEL_MATCH.EMA_DECAY", 0.5)
    method = core.methods["LabelMatchThresholds"]
    assert isinstance(method, LabelMatchThresholds)
    records = [{"annotations": [{"category_id": 0}, {"category_id": 0}, {"category_id": 1}]}]
    method.setup(TrainingData(labeled=records, unlabeled=[], class_names=["a", "b", "c"]))
    context: Any = None
    assert method.thresholds(context).tolist() == pytest.approx([0.9] * 3)
    scores = [(0, 0.305), (0, 0.505), (0, 0.705), (1, 0.605), (1, 0.405), (2, 0.955)]
    for _ in range(3):  # the same distribution again and again: averaging does not matter
        method.update(None, labels_of([scores, scores]), context)  # type: ignore[arg-type]
    found = method.thresholds(context)
    kept = [sum(s >= found[c] for k, s in scores if k == c) for c in range(3)]
    assert kept == [2, 1, 0]


# ---------------------------------------------------------------- CrS


def test_memory_keeps_the_last_visit_and_the_best_score_of_a_class() -> None:
    memory = LabelMemory()
    samples = [make_sample(3, False), make_sample(7, False)]
    memory.remember(samples, labels_of([[(0, 0.5), (0, 0.9), (2, 0.6), (1, 0.1)], []], 0.3))
    assert [v.tolist() for v in memory.rows()[:2]] == [[3, 3], [0, 2]]
    assert memory.rows()[2].tolist() == pytest.approx([0.9, 0.6])
    assert memory.visited == 2
    assert memory.class_image_counts(3).tolist() == [1, 0, 1]
    memory.remember(samples[:1], labels_of([[(1, 0.7)]]))
    assert memory.class_image_counts(3).tolist() == [0, 1, 0] and memory.visited == 2
    again = LabelMemory()
    again.load_state_dict(memory.state_dict())
    assert again.visited == 2 and [v.tolist() for v in again.rows()] == [
        v.tolist() for v in memory.rows()
    ]


def test_replaced_images_are_not_remembered() -> None:
    memory = LabelMemory()
    sample = make_sample(3, False)
    sample.skipped = [("broken.png", "truncated")]
    memory.remember([sample], labels_of([[(0, 0.9)]]))
    assert memory.visited == 0


def sampling(**keywords: Any) -> ClassRebalancingSampling:
    values: Dict[str, Any] = {
        "threshold": 0.8,
        "generations": 4,
        "gamma": 2.0,
        "num_classes": 3,
        "first_step": 20,
        "last_step": 100,
        "fixed_threshold": 0.5,
        **keywords,
    }
    method = ClassRebalancingSampling(**values)
    images = [[0], [0], [0, 1], [0], []]
    labeled = [{"annotations": [{"category_id": c} for c in image]} for image in images]
    method.setup(TrainingData(labeled, [{}] * 6, ["a", "b", "c"]))
    return method


def test_generations_publish_the_factors_of_equation_11() -> None:
    method = sampling()
    first = method.snapshot(1)
    assert first is not None
    assert first["repeat_factors_labeled"].tolist() == pytest.approx([1, 1, 2, 1, 1])
    assert first["repeat_factors_unlabeled"].tolist() == [1.0] * 6
    assert method.snapshot(2) is None
    rows = [[(1, 0.95)], [(2, 0.8), (0, 0.9)], [], [(0, 0.99)]]
    samples = [make_sample(i, False) for i in (5, 0, 1, 2)]
    method.memory.remember(samples, labels_of(rows))
    published = {step: method.snapshot(step) for step in range(3, 101)}
    assert [step for step, arrays in published.items() if arrays] == [20, 40, 60, 80]
    for generation, step in enumerate((20, 40, 60, 80)):
        arrays = published[step]
        assert arrays is not None
        # Labelled images: class 0 in 4, class 1 in 1; visited: 4 of 6.
        wanted = image_repeat_factors(
            [
                (torch.tensor([2, 0]), torch.tensor([0.8, 0.9])),
                (torch.tensor([], dtype=torch.int64), torch.tensor([])),
                (torch.tensor([0]), torch.tensor([0.99])),
                *[(torch.tensor([], dtype=torch.int64), torch.tensor([]))] * 2,
                (torch.tensor([1]), torch.tensor([0.95])),
            ],
            torch.tensor([6, 2, 1]),
            9,
            torch.full((3,), 0.5),
            2.0 * generation / 4,
        )
        assert np.allclose(arrays["repeat_factors_unlabeled"], wanted)
        assert np.allclose(arrays["repeat_factors_labeled"], [1, 1, 2, 1, 1])
    last = published[80]
    assert last is not None and last["repeat_factors_unlabeled"].max() > 1


def test_a_run_too_short_for_its_generations() -> None:
    method = sampling(generations=10, first_step=1, last_step=3)
    assert sorted(method.begins) == [1, 2, 3] and method.begins[3] == 9


def test_sampling_takes_the_thresholds_of_gbt(storage: Any) -> None:
    core = build((GBR, GBT, CRS))
    core.methods[GBR].balance.logits.copy_(torch.tensor([1.0, 0.0, -1.0, 0.0]))
    crs = core.methods[CRS]
    assert crs.thresholds.tolist() == pytest.approx([0.7] * 3)  # the fixed one
    core(batch())
    gbt, context = core.methods[GBT], type("C", (), {"methods": dict(core.methods.items())})()
    assert torch.equal(crs.thresholds, gbt.thresholds(context))
    assert crs.memory.visited == 2


# ---------------------------------------------------------------- runs


def run_cfg(squares: Path, output: Path, names: tuple[str, ...], steps: int) -> Any:
    cfg = method_cfg(squares, output, names, steps)
    cfg.merge_from_list(
        [
            *("SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 1, "SSOD.GRADIENT_REWEIGHTING.LR", 1.0),
            *("SSOD.GRADIENT_THRESHOLDING.LOW", 0.05, "SSOD.GRADIENT_THRESHOLDING.BASE", 0.2),
            *("SSOD.CLASS_REBALANCING_SAMPLING.GENERATIONS", 3, "TEST.EVAL_PERIOD", 2),
            *("SSOD.CLASS_REBALANCING_SAMPLING.GAMMA", 900.0, "SOLVER.CHECKPOINT_PERIOD", 2),
        ]
    )
    return cfg


def factor_sources(trainer: Any) -> set[tuple[str, int]]:
    """(method, snapshot id) in effect at any step of the run."""
    return {pair for step in range(trainer.max_iter) for pair in trainer.board.in_effect(step)}


def test_all_three_resume_in_the_middle_of_a_generation(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (GBR, GBT, CRS)
    built: List[Any] = []

    def build_loader(*args: Any, **keywords: Any) -> Any:
        built.append(build_train_loader(*args, **keywords))
        return built[-1]

    monkeypatch.setattr("ssod.engine.trainer.build_train_loader", build_loader)
    whole = train(run_cfg(squares, tmp_path / "whole", names, 10))
    assert len(built) == 1 and len({id for _, id in factor_sources(whole)}) > 1
    assert whole.core.methods[CRS].begins == {1: 0, 4: 1, 7: 2}
    cfg = run_cfg(squares, tmp_path / "parts", names, 10)
    train(cfg)
    for index in (
        5,
        7,
    ):  # in the middle of generation 1, and where the last snapshot is not in effect yet
        (tmp_path / "parts" / "last_checkpoint").write_text(f"model_{index:07d}.pth")
        parts = train(cfg, resume=True)
        assert parts.start_iter == index + 1
        assert digest(state_of(whole)) == digest(state_of(parts))
    factors = whole.board.load(CRS, whole.board.in_effect(10)[0][1])["repeat_factors_unlabeled"]
    assert factors.max() > 1


def test_report_sections_of_a_run(squares: Path, tmp_path: Path) -> None:
    from ssod.report.run_data import load_runs

    names = (GBR, GBT, CRS)
    train(run_cfg(squares, tmp_path / "run", names, 4))
    (run,) = load_runs([str(tmp_path / "run")])
    for name, words in (
        (GBR, "Gradient matrix, step 4"),
        (GBT, "Thresholds of the classes"),
        (CRS, "Mean repeat factor"),
    ):
        section = (
            {GBR: GradientReweighting, GBT: GradientThresholding}
            .get(name, ClassRebalancingSampling)
            .report_section(run)
        )
        assert section is not None and words in section.html
        assert "nan" not in section.html.split("base64")[0]
    weights = run.series(f"{GBR}/weight/red")
    assert [step for step, _ in weights][-1] == 4
    file = tmp_path / "run" / "ci_ssod" / f"{GBR}_step_2.npz"
    for part in (b"no archive", file.read_bytes()[:100], b""):
        file.write_bytes(part)
        section = GradientReweighting.report_section(run)
        assert section is not None and "step 2" not in section.html


def test_labelled_images_alone(squares: Path, tmp_path: Path) -> None:
    """Reweighting and repeat factors work in a supervised run."""
    cfg = run_cfg(squares, tmp_path / "run", (), 3)
    cfg.SSOD.METHODS = (GBR, "RepeatFactorSampling")
    cfg.DATASETS.UNLABELED = ()
    trainer = train(cfg)
    assert (trainer.core.methods[GBR].balance.weights != 1).any()
    factors = trainer.board.load("RepeatFactorSampling", 0)["repeat_factors_labeled"]
    assert len(factors) == len(load_labeled(cfg)) and factors.min() >= 1


def test_scaling_to_more_processes() -> None:
    from ssod.engine.solver import scale_config

    cfg = tiny_cfg()
    for methods in ((GBT,), (GBR, GBT)):
        cfg.SSOD.METHODS = methods
        cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
        cfg.SOLVER.IMS_PER_BATCH = cfg.SSOD.IMS_PER_BATCH_UNLABELED = 8
        scaled = scale_config(cfg, 4).SSOD
        assert scaled.GRADIENT_REWEIGHTING.WARMUP_STEPS == 16000
        assert scaled.GRADIENT_REWEIGHTING.EMA_DECAY == pytest.approx(0.9995**0.5)
        assert scaled.GRADIENT_REWEIGHTING.LR == pytest.approx(0.005)
        assert scaled.GRADIENT_THRESHOLDING.EMA_DECAY == pytest.approx(0.9995**0.5)


def picture_of(matrix: np.ndarray) -> np.ndarray:
    from ssod.methods.ci_ssod.report import heat_map

    kind, _, data = heat_map(matrix).partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def test_heat_map() -> None:
    assert (picture_of(np.zeros((4, 4))) == 255).all()
    picture = picture_of(np.array([[-1.0, 0.1], [1e-6, -0.01]]))
    side = len(picture) // 2
    colours = picture[::side, ::side].astype(int)  # BGR
    assert colours[0, 0].tolist() == [178, 114, 0]  # the largest pushes the logit up
    assert colours[0, 1].argmax() == 2 and colours[1, 1].argmin() == 2
    assert colours[1, 0].tolist() == [255] * 3  # more than three decades smaller


def test_heat_map_of_many_classes_keeps_the_strongest() -> None:
    picture = picture_of(np.diag(np.r_[np.full(1203, -1.0), -1e-2]))
    assert 200 <= len(picture) <= 280
    assert (picture[np.arange(241), np.arange(241)] != 255).any(axis=1).all()
    assert (picture[0, 1:] == 255).all()


def test_weights_are_a_function_of_the_matrix_alone() -> None:
    """A balanced matrix leaves the weights where they are."""
    from ssod.methods.ci_ssod import jacobi_target

    balanced: Tensor = torch.ones(4, 4) - 4 * torch.eye(4)
    assert torch.allclose(jacobi_target(balanced, torch.ones(4), 1 / 3, 5.0), torch.ones(4))
