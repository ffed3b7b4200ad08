"""Whole runs of a tiny detector: resume, branching, ranks, precision, truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from detectron2.config import CfgNode

from runs import quota_free, state_of, train
from ssod.engine.loading import load_detector
from ssod.engine.setup import load_config
from ssod.engine.trainer import SSODTrainer, evaluate_checkpoint
from ssod.errors import TrainingDiverged, UserError
from ssod.utils.run_folder import weights_of
from tiny import tiny_cfg, with_squares
from toy_method import Toy

pytestmark = pytest.mark.trains

HERE = Path(__file__).parent


def config(root: Path, output: Path, methods: tuple[str, ...] = ("Toy",), **keys: Any) -> CfgNode:
    cfg = with_squares(tiny_cfg(keys.pop("norm", "GN")), root, output, methods)
    cfg.SSOD.SNAPSHOT_DELAY = 5
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    os.makedirs(output, exist_ok=True)
    return cfg


def assert_same(a: Dict[str, torch.Tensor], b: Dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


@pytest.mark.parametrize(
    "keys",
    [
        {"SOLVER__OPTIMIZER": "SGD", "norm": "BN"},
        {
            "SOLVER__OPTIMIZER": "AdamW",
            "SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR",
            "SOLVER__WARMUP_ITERS": 4,
        },
        {
            "SOLVER__AMP__ENABLED": True,
            "SOLVER__GRADIENT_ACCUMULATION_STEPS": 2,
            "SOLVER__IMS_PER_BATCH": 4,
            "SSOD__IMS_PER_BATCH_UNLABELED": 4,
        },
    ],
    ids=["sgd-live-bn", "adamw-cosine", "amp-accumulation"],
)
def test_resume_is_bit_identical(squares: Path, tmp_path: Path, keys: Dict[str, Any]) -> None:
    keys = {"SOLVER__MAX_ITER": 9, **keys}
    whole = train(config(squares, tmp_path / "whole", **keys))
    cfg = config(squares, tmp_path / "parts", **keys)
    train(cfg, until=4)
    # Killed after step 3's checkpoint: what step 4 wrote is undone.
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000002.pth")
    parts = train(config(squares, tmp_path / "parts", **keys), resume=True)
    assert parts.start_iter == 3
    assert_same(state_of(whole), state_of(parts))
    assert whole.core.methods["Toy"].seen.sum() > 0


def test_workers_do_not_change_the_result(squares: Path, tmp_path: Path) -> None:
    """Toy publishes snapshots that change the images, so this fails if any comes too early or too
    late.
    """
    runs = [
        train(config(squares, tmp_path / str(n), SOLVER__MAX_ITER=10, DATALOADER__NUM_WORKERS=n))
        for n in (0, 2)
    ]
    assert_same(state_of(runs[0]), state_of(runs[1]))


def test_kill_dash_nine_and_resume(squares: Path, tmp_path: Path) -> None:
    """The same through the command line, killed from outside at an arbitrary moment."""
    cfg = config(
        squares,
        tmp_path / "killed",
        ("ScoreThreshold",),
        SOLVER__MAX_ITER=40,
        SOLVER__CHECKPOINT_PERIOD=2,
    )
    cfg.SSOD.SCORE_THRESHOLD = 0.1
    path = tmp_path / "config.yaml"
    script = HERE.parent / "run_tiny.py"
    path.write_text(cfg.dump())
    command = [sys.executable, str(script), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while not (tmp_path / "killed" / "last_checkpoint").exists() and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train(cfg.clone(), resume=True)
    assert resumed.start_iter > 0
    whole = config(
        squares,
        tmp_path / "whole",
        ("ScoreThreshold",),
        SOLVER__MAX_ITER=40,
        SOLVER__CHECKPOINT_PERIOD=2,
    )
    whole.SSOD.SCORE_THRESHOLD = 0.1
    assert_same(state_of(resumed), state_of(train(whole)))
    steps = [json.loads(line)["iteration"] for line in open(tmp_path / "killed" / "metrics.json")]
    assert steps == sorted(set(steps))


def test_branch_from_a_shared_burn_in(squares: Path, tmp_path: Path) -> None:
    """A supervised run's checkpoint continues as a semi-supervised run, bit for bit as if it had
    always been one.
    """
    methods = ("ScoreThreshold",)
    whole = train(config(squares, tmp_path / "whole", methods, SSOD__BURN_IN_STEPS=3))
    train(config(squares, tmp_path / "burn_in", (), SOLVER__MAX_ITER=3))
    branch = config(squares, tmp_path / "branch", methods, SSOD__BURN_IN_STEPS=3)
    branch.SSOD.BURN_IN_CHECKPOINT = str(tmp_path / "burn_in" / "model_final.pth")
    assert_same(state_of(whole), state_of(train(branch)))


def test_branch_with_new_heads(squares: Path, tmp_path: Path) -> None:
    train(config(squares, tmp_path / "burn_in", (), SOLVER__MAX_ITER=2))
    branch = config(squares, tmp_path / "branch")
    branch.SSOD.BURN_IN_CHECKPOINT = str(tmp_path / "burn_in" / "model_final.pth")
    assert train(branch).start_iter == 2


def test_branch_past_burn_in_is_refused(squares: Path, tmp_path: Path) -> None:
    train(config(squares, tmp_path / "burn_in", (), SOLVER__MAX_ITER=3))
    branch = config(squares, tmp_path / "branch", SSOD__BURN_IN_STEPS=2)
    branch.SSOD.BURN_IN_CHECKPOINT = str(tmp_path / "burn_in" / "model_final.pth")
    with pytest.raises(UserError, match="BURN_IN_STEPS"):
        train(branch)


def test_truth_of_unlabelled_images_changes_nothing(squares: Path, tmp_path: Path) -> None:
    blind = config(squares, tmp_path / "blind")
    seeing = config(squares, tmp_path / "seeing")
    seeing.SSOD.DATASETS.squares_unlabeled.ANNOTATIONS = str(squares / "unlabeled.json")
    assert_same(state_of(train(blind)), state_of(train(seeing)))


def test_teacher_is_copied_when_burn_in_ends(squares: Path, tmp_path: Path) -> None:
    seen = {}

    class Spy(SSODTrainer):
        def run_step(self) -> None:
            same = all(
                torch.equal(a, b)
                for a, b in zip(self.core.teacher.parameters(), self.core.student.parameters())
            )
            seen[self.iter] = same
            super().run_step()

    trainer = Spy(config(squares, tmp_path / "run"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert seen == {0: True, 1: False, 2: True, 3: False, 4: False, 5: False}


def test_supervised_run_never_loads_unlabelled_images(squares: Path, tmp_path: Path) -> None:
    trainer = train(config(squares, tmp_path / "run", ()))
    assert trainer.data.unlabeled == [] and trainer.core.last_pseudo is None
    difference = [
        (a - b).abs().max().item()
        for a, b in zip(trainer.core.teacher.parameters(), trainer.core.student.parameters())
    ]
    assert max(difference) > 0  # an average, not a copy


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_on_cpu(squares: Path, tmp_path: Path, dtype: str) -> None:
    trainer = train(
        config(squares, tmp_path / dtype, SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE=dtype)
    )
    assert all(torch.isfinite(v).all() for v in state_of(trainer).values())
    assert next(trainer.core.student.parameters()).dtype == torch.float32


def test_accumulation_equals_one_large_batch(squares: Path, tmp_path: Path) -> None:
    """Without sampling quotas that bind, two micro-batches of 2 give the gradient of one batch of
    4.

    Every anchor and RoI takes part, so nothing random differs; the RPN's normaliser counts images,
    the RoI head's counts RoIs, which are equally many in every image.
    """
    results = []
    for micro in (1, 2):
        cfg = quota_free(config(squares, tmp_path / str(micro), ()))
        cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = micro
        results.append(state_of(train(cfg)))
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], atol=1e-6), name


def test_fresh_start_in_a_used_folder_forgets_the_former_run(squares: Path, tmp_path: Path) -> None:
    train(config(squares, tmp_path / "run", ()))
    trainer = SSODTrainer(config(squares, tmp_path / "run", ()))
    trainer.resume_or_load(resume=False)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"last_checkpoint", "results.json", "teacher_best.pth"}
    assert not trainer.checkpointer.has_checkpoint() and trainer.start_iter == 0


def test_method_for_labelled_images_alone(squares: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Toy, "needs_unlabeled", False)
    monkeypatch.setattr(Toy, "selects_pseudo_labels", False)
    trainer = train(config(squares, tmp_path / "run"))
    assert trainer.data.unlabeled == [] and trainer.core.last_pseudo is None
    assert trainer.core.methods["Toy"].seen.sum() > 0


def test_unlabelled_set_is_needed(squares: Path, tmp_path: Path) -> None:
    cfg = config(squares, tmp_path / "run")
    cfg.DATASETS.UNLABELED = ()
    with pytest.raises(UserError, match="DATASETS.UNLABELED"):
        SSODTrainer(cfg)


def test_infinite_loss_stops_with_the_step_and_advice(squares: Path, tmp_path: Path) -> None:
    cfg = config(squares, tmp_path / "run", (), SOLVER__BASE_LR=1e30)
    with pytest.raises(TrainingDiverged, match="SOLVER.BASE_LR"):
        train(cfg)


def test_nothing_is_chosen_on_the_test_set(squares: Path, tmp_path: Path) -> None:
    """Without DATASETS.VAL the last teacher is the result, however good an earlier one was."""
    cfg = config(squares, tmp_path / "run", (), TEST__EVAL_PERIOD=2)
    cfg.DATASETS.TEST = ("squares_test",)
    trainer = train(cfg)
    assert trainer.best["step"] == -1
    folder = tmp_path / "run"
    assert not (folder / "teacher_best.pth").exists()
    record = json.loads((folder / "results.json").read_text())["teacher_best"]
    assert set(record) == {"test"} and set(record["test"]) == {"squares_test"}
    lines = [json.loads(line) for line in open(folder / "metrics.json")]
    assert any("teacher/bbox/AP" in line for line in lines)  # curves all the same
    assert weights_of(str(folder)) == str(folder / "teacher_final.pth")
    last = torch.load(folder / "teacher_final.pth", weights_only=True)["model"]
    found = load_detector(cfg, str(folder), None).state_dict()
    assert all(torch.equal(found[key], value) for key, value in last.items())
    metrics = evaluate_checkpoint(_with_weights(cfg, str(folder)), None)["squares_test"]["bbox"]
    assert metrics["AP50"] == pytest.approx(record["test"]["squares_test"]["bbox"]["AP50"])


def _with_weights(cfg: Any, path: str) -> Any:
    cfg.MODEL.WEIGHTS = path
    return cfg


def test_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither teacher_best.pth nor teacher_final.pth"):
        weights_of(str(tmp_path))
    assert weights_of("https://a.b/c.pkl") == "https://a.b/c.pkl"
    for name in ("teacher_final.pth", "teacher_best.pth"):  # the best where there is one
        (tmp_path / name).touch()
        assert weights_of(str(tmp_path)) == str(tmp_path / name)


def test_evaluation_keeps_the_best_teacher(squares: Path, tmp_path: Path) -> None:
    cfg = config(squares, tmp_path / "run", TEST__EVAL_PERIOD=2)
    cfg.DATASETS.VAL = cfg.DATASETS.TEST = ("squares_test",)
    trainer = train(cfg)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["teacher_best"]["step"] in (2, 4, 6)
    assert set(results["teacher_best"]["test"]) == {"squares_test"}
    lines = [json.loads(line) for line in open(tmp_path / "run" / "metrics.json")]
    evaluated = [line["iteration"] for line in lines if "teacher/bbox/AP" in line]
    assert evaluated and "student/bbox/AP" in lines[-1]
    best = torch.load(tmp_path / "run" / "teacher_best.pth", weights_only=True)["model"]
    assert not any(name.startswith("ssod_heads") for name in best)
    assert best.keys() == {
        k for k in trainer.core.teacher.state_dict() if not k.startswith("ssod_heads")
    }


def test_better_of_student_and_teacher_is_kept(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    cfg.DATASETS.VAL = ("squares_test",)
    cfg.SSOD.SELECT_FROM = ("teacher", "student")
    trainer = SSODTrainer(cfg)
    trainer._remember_best({"teacher": 1.0, "student": 1.0}, 2)
    assert trainer.best == {"AP": 1.0, "step": 2, "model": "teacher"}
    with torch.no_grad():
        next(trainer.core.student.parameters()).add_(1.0)
    trainer._remember_best({"teacher": 1.0, "student": 2.0}, 4)
    assert trainer.best == {"AP": 2.0, "step": 4, "model": "student"}
    trainer._remember_best({"teacher": 1.5, "student": float("nan")}, 6)
    assert trainer.best["step"] == 4
    best = torch.load(tmp_path / "run" / "teacher_best.pth", weights_only=True)["model"]
    assert all(
        torch.equal(best[key], value) for key, value in trainer.core.student.state_dict().items()
    )
    # The student is never chosen by default.
    cfg.SSOD.SELECT_FROM = ("teacher",)
    trainer._remember_best({"teacher": 1.9, "student": 9.0}, 8)
    assert trainer.best["step"] == 4


@pytest.mark.parametrize("value", [(), ("ema",)])
def test_unknown_selection_is_refused(value: tuple) -> None:
    with pytest.raises(UserError, match=r"SSOD.SELECT_FROM is .*: use \('teacher',\)"):
        load_config("", ["SSOD.SELECT_FROM", str(value)])


def test_validation_set_without_boxes_still_gives_a_best_teacher(
    squares: Path, tmp_path: Path
) -> None:
    cfg = config(squares, tmp_path / "run", (), SOLVER__MAX_ITER=1)
    cfg.DATASETS.VAL = ("squares_unlabeled",)
    train(cfg)
    best, last = (
        torch.load(tmp_path / "run" / f"teacher_{name}.pth", weights_only=True)["model"]
        for name in ("best", "final")
    )
    assert best.keys() == last.keys() and all(torch.equal(best[k], last[k]) for k in best)
