"""Examples in docstrings run, and two public functions in three have one.

Public are the functions that users and authors of methods call: those that the equations' page
lists, and what the packages below export by `__all__`. Methods, detectors and other modules of
PyTorch are shown by their configs and pages instead.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any, Dict, List

import pytest
from torch import nn

import ssod
from ssod.detectors.base import Detector

ROOT = Path(__file__).parent.parent / "projects" / "ssod"
EQUATIONS = {
    "acrst": "pseudo_recall class_sampling_probabilities two_stage_filter visible_fraction",
    "lsm": "self_distillation_loss shift_aligned_levels",
    "ci_ssod": "gradient_matrix solve_class_weights jacobi_target class_thresholds "
    "image_repeat_factors",
    "multi_phase": "image_certainty intersect_pseudo_labels background_weights similarity_loss",
    "pudet": "nnpu_risk imitation_mask bounded_classification_distillation "
    "bounded_box_distillation",
}
PACKAGES = ("methods", "pseudo_labels", "evaluation", "data", "detectors")


def named(path: str) -> Dict[str, Any]:
    """The functions and classes that a package exports by `__all__`, without modules."""
    module = importlib.import_module(path)
    found = {}
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value):
            if issubclass(value, (nn.Module, Detector)) or value.__module__.startswith("torch"):
                continue
        elif not callable(value) or not hasattr(value, "__name__"):
            continue
        found[f"{path}.{name}"] = value
    return found


def public() -> Dict[str, Any]:
    """By name."""
    found: Dict[str, Any] = {}
    for paper, names in EQUATIONS.items():
        module = importlib.import_module(f"ssod.methods.{paper}")
        found.update({f"ssod.methods.{paper}.{n}": getattr(module, n) for n in names.split()})
    for package in PACKAGES:
        path = f"ssod.{package}"
        found.update(named(path))
        for info in pkgutil.walk_packages(importlib.import_module(path).__path__, f"{path}."):
            if info.ispkg:
                found.update(named(info.name))
    return found


def has_example(value: Any) -> bool:
    return ">>> " in (value.__doc__ or "")


def test_two_in_three_have_an_example() -> None:
    names = public()
    without = sorted(name for name, value in names.items() if not has_example(value))
    assert len(names) > 50
    assert 3 * len(without) <= len(names), f"without an example: {', '.join(without)}"


def test_every_equation_has_an_example() -> None:
    for paper, names in EQUATIONS.items():
        module = importlib.import_module(f"ssod.methods.{paper}")
        assert [n for n in names.split() if not has_example(getattr(module, n))] == []


def files_with_examples() -> List[str]:
    files = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text("utf-8"))
    return [".".join(p.relative_to(ROOT.parent).with_suffix("").parts) for p in files]


@pytest.mark.parametrize("name", files_with_examples())
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name.removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


def test_a_wrong_example_is_found() -> None:
    def wrong() -> None:
        """
        >>> 1 + 1
        3
        """

    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner(verbose=False)
    for test in finder.find(wrong, "wrong", module=False, globs={}):
        runner.run(test, out=lambda text: None)
    assert runner.summarize(verbose=False).failed == 1
    assert not has_example(ssod) and has_example(wrong)
