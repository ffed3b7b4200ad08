"""Files of single steps: found in order, told apart by prefix and suffix, dropped after a step."""

from __future__ import annotations

from pathlib import Path

from ssod.utils.step_files import StepFiles


def test_found_in_the_order_of_steps(tmp_path: Path) -> None:
    files = StepFiles(str(tmp_path / "a[b]"), ".npz", prefix="PIM_")
    assert files.found() == []
    (tmp_path / "a[b]").mkdir()
    for step in (10, 9, 100):
        Path(files.path(step)).touch()
    for other in ("step_5.npz", "XPIM_step_5.npz", "PIM_step_5.npz.tmp", "PIM_step_x.npz"):
        (tmp_path / "a[b]" / other).touch()
    assert files.found() == [(step, files.path(step)) for step in (9, 10, 100)]


def test_drop_after_keeps_the_step_itself_and_other_files(tmp_path: Path) -> None:
    files, others = StepFiles(str(tmp_path), ".json"), StepFiles(str(tmp_path), ".json", "MLC_")
    for step in (4, 5, 6):
        Path(files.path(step)).touch()
        Path(others.path(step)).touch()
    files.drop_after(4)
    assert [step for step, _ in files.found()] == [4]
    assert len(others.found()) == 3
