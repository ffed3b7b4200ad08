"""The benchmark runs the trainer's own steps and does not change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from runs import FCOS, RETINANET
from ssod.benchmark import bench as bench_module
from ssod.benchmark import measure
from ssod.benchmark.bench import SECTIONS, Bench, Stopwatch
from ssod.benchmark.measure import summary
from ssod.errors import UserError
from ssod.tools.benchmark import main
from tiny import tiny_cfg, with_squares


@pytest.fixture
def cfg(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setattr(measure, "WARM_UP", 1)
    return with_squares(tiny_cfg(), squares, tmp_path / "unused", ("ScoreThreshold",))


def write(cfg: CfgNode, path: Path) -> str:
    path.write_text(cfg.dump())
    return str(path)


def test_stopwatch_adds_up_by_section(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 11.0, 20.0, 22.5, 30.0, 30.25])
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: next(ticks))
    waits = []

    class Owner:
        def double(self, x: int) -> int:
            return 2 * x

    owner, watch = Owner(), Stopwatch(lambda: waits.append(1))
    watch.wrap(owner, "double", "a")
    assert (owner.double(3), owner.double(x=4)) == (6, 8)
    with watch.time("b"):
        pass
    assert watch.seconds == {"a": 3.5, "b": 0.25}
    assert len(waits) == 6


def test_summary_takes_medians() -> None:
    found = summary(
        [2.0, 9.0, 3.0],
        [{"data": 1.0, "total": 2.0}, {"data": 5.0, "total": 9.0}, {"data": 2.0, "total": 3.0}],
        [{"total": 2.0}, {"total": 1.5}, {"total": 8.0}],
    )
    assert found["step_seconds"] == 3.0 and found["lower_bound_seconds"] == 2.0
    assert found["step_over_lower_bound"] == 1.5
    assert found["split_seconds"] == {"data": 2.0}
    assert summary([1.0], [{"total": 1.0}], [])["step_over_lower_bound"] is None


def test_first_step_is_mutual_learning_and_the_parts_add_up(cfg: CfgNode, tmp_path: Path) -> None:
    bench = Bench(cfg, str(tmp_path / "out"))
    seconds = bench.step(split=True)
    assert set(seconds) == {*SECTIONS, "rest", "total"}
    assert all(seconds[name] > 0 for name in SECTIONS)
    parts = sum(seconds[name] for name in (*SECTIONS, "rest"))
    assert parts == pytest.approx(seconds["total"])
    # Labelled images are seen weak and strong.
    assert bench.images_per_step() == {
        "student_labeled": 4,
        "student_unlabeled": 2,
        "student_extra": 0,
        "teacher": 2,
    }


def test_lower_bound_sees_the_same_images(cfg: CfgNode, tmp_path: Path) -> None:
    bench = Bench(cfg, str(tmp_path / "out"))
    bench.step(split=True)
    assert bench.views is not None and bench.views.unlabeled is not None
    seen: Any = {}
    student, teacher = bench.core.student, bench.core.teacher
    student.register_forward_pre_hook(lambda module, args: seen.update(student=args[0]))
    inference = teacher.inference
    teacher.inference = lambda inputs, **kw: seen.update(teacher=inputs) or inference(inputs, **kw)
    seconds = bench.lower_bound()
    assert set(seconds) == {"student forward", "backward", "teacher", "total"}
    batch = bench.core.last_batch
    strong = [s.strong for s in batch.labeled] + [s.weak for s in batch.labeled]
    strong += [s.strong for s in batch.unlabeled]
    assert [torch.equal(a["image"], b) for a, b in zip(seen["student"], strong)] == [True] * 6
    assert [len(row["instances"]) for row in seen["student"][:2]] == [
        len(s.instances) for s in batch.labeled
    ]
    assert [id(row["image"]) for row in seen["teacher"]] == [id(s.weak) for s in batch.unlabeled]
    assert all(p.grad is None for p in student.parameters())


@pytest.mark.parametrize("keys", [[], RETINANET, FCOS])
def test_lower_bound_changes_no_number_of_training(cfg: CfgNode, tmp_path: Path, keys: Any) -> None:
    cfg.merge_from_list(keys)

    def run(name: str, bound: bool) -> Any:
        bench = Bench(cfg.clone(), str(tmp_path / name))
        for _ in range(3):
            bench.step(split=True)
            if bound:
                bench.lower_bound()
        return bench.core.state_dict()

    plain, other = run("a", False), run("b", True)
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_command_prints_one_json_object(
    cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(cfg, tmp_path / "c.yaml")
    main(["--config-file", path, "--steps", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    ratio = found["step_seconds"] / found["lower_bound_seconds"]
    assert found["step_over_lower_bound"] == pytest.approx(ratio)
    assert found["steps"] == 2 and found["threads"] == 1 and found["device"] == "cpu"
    assert found["peak_memory_bytes"] > 50 * 2**20
    assert list(found["split_seconds"]) == [*SECTIONS, "rest"]
    assert not (tmp_path / "unused").exists()
    main(["--config-file", path, "--steps", "1", "--no-lower-bound"])
    out = capsys.readouterr().out
    assert "lower bound" not in out and "4 labelled + 2 unlabelled views, 2 for the teacher" in out


def test_compare(cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = write(cfg, tmp_path / "a.yaml")
    cfg.SSOD.METHODS, cfg.DATASETS.UNLABELED = (), ()
    second = write(cfg, tmp_path / "b.yaml")
    arguments = ["--config-file", first, "--compare", second, "--steps", "2"]
    main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["first"]["methods"] == ["ScoreThreshold"] and found["second"]["methods"] == []
    ratio = found["first"]["step_seconds"] / found["second"]["step_seconds"]
    assert found["first_over_second"] == pytest.approx(ratio)
    assert found["second"]["split_seconds"]["teacher"] == 0.0
    main(arguments)
    assert "first / second" in capsys.readouterr().out


def test_starts_from_a_checkpoint(cfg: CfgNode, tmp_path: Path) -> None:
    trained = Bench(cfg.clone(), str(tmp_path / "out"))
    for _ in range(2):
        trained.step(split=True)
    trained.trainer.iter -= 1  # as inside the last step, when checkpoints are written
    trained.trainer.checkpointer.save("model_0000001")
    cfg.SSOD.BURN_IN_CHECKPOINT = str(tmp_path / "out" / "model_0000001.pth")
    bench = Bench(cfg, str(tmp_path / "again"))
    assert bench.trainer.iter == 2
    pairs = zip(bench.core.student.parameters(), trained.core.student.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
    bench.step(split=True)
    assert bench.images_per_step()["teacher"] == 2


def test_wrong_inputs(cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(cfg, tmp_path / "c.yaml")
    with pytest.raises(UserError, match="GRADIENT_ACCUMULATION_STEPS is 2"):
        main(["--config-file", path, "SOLVER.GRADIENT_ACCUMULATION_STEPS", "2"])
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        main(["--config-file", path, "--compare", "nowhere.yaml"])
    with pytest.raises(UserError, match="none.pth does not exist"):
        main(["--config-file", path, "SSOD.BURN_IN_CHECKPOINT", "none.pth"])
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="add MODEL.DEVICE cpu"):
            main(["--config-file", path, "MODEL.DEVICE", "cuda"])
    with pytest.raises(SystemExit):
        main(["--config-file", path, "--steps", "0"])
    assert "0 must be a whole number, at least 1" in capsys.readouterr().err
