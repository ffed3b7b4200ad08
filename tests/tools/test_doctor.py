"""The report on the environment: all of it, nothing of it, and each way to be broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ssod.tools import doctor

PACKAGES_DIR = Path(doctor.__file__).parents[2]


def test_complete_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    for name in (
        "Python",
        "torch",
        "torchvision",
        "detectron2",
        "shims",
        "opencv",
        "numpy",
        "GPUs",
    ):
        assert name in out
    assert "operators work" in out
    assert "fix:" not in out
    assert doctor.main(["--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_runs_where_nothing_is_installed() -> None:
    """-S and -I: no site-packages. Every missing package is named with its command."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGES_DIR)!r}); from ssod.tools import doctor; sys.exit(doctor.main([]))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for name, command in (
        ("torch ", "pip install torch torchvision"),
        ("detectron2 ", "pb1-detectron2==0.6|requirements"),
        ("cv2 ", "pip install opencv-python-headless"),
        ("sklearn ", "pip install scikit-learn"),
    ):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"MISSING {name}"))
        assert any(part in lines[at + 1] for part in command.split("|")), lines[at + 1]


def test_missing_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "detectron2.engine", raising=False)
    finding = doctor.check_detectron2()
    assert finding.state == "MISSING"
    assert (
        "--require-hashes --requirement" in finding.fix
    )  # in this checkout, whose file has the settings
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    assert "--skip-build" in doctor.detectron2_command()


def test_missing_dependency_of_a_package_is_the_one_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_package.py").write_text("import toy_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.check_package("toy_package", "toy-package")
    assert finding.state == "BROKEN"
    assert finding.fix.endswith("pip install toy_dependency")


def test_broken_package_is_reinstalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_broken.py").write_text("raise OSError('undefined symbol\\nsecond line')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.check_package("toy_broken", "toy-broken")
    assert finding.state == "BROKEN"
    assert finding.text == "OSError: undefined symbol"
    assert finding.fix.endswith("--force-reinstall --no-deps toy-broken")


def test_torchvision_whose_operators_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = ModuleType("torchvision.ops")

    def nms(*args: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    setattr(ops, "nms", nms)
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    finding = doctor.check_torchvision()
    assert finding.is_problem
    assert "nms does not exist" in finding.text
    assert "torchvision" in finding.fix


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_python().state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert doctor.check_python().is_problem


def test_problems_set_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [
        doctor.Finding("a", "1.0"),
        doctor.Finding("b", "not installed", "get b", "MISSING"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.main(["--quiet"]) == 1
    out = capsys.readouterr().out
    assert "get b" in out
    assert "1.0" not in out
    assert "1 of 2 need fixing" in out
