"""The shims: each works only if it is needed, and missing functions raise clear errors."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator

import numpy as np
import PIL.Image
import pytest

from ssod import compat


@pytest.fixture(autouse=True)
def original_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixes that these tests apply do not appear in the real list."""
    monkeypatch.setattr(compat, "_applied", [])


@pytest.fixture
def fake_detectron2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable, empty `detectron2` in place of the installed one."""
    compat.apply()
    package = tmp_path / "detectron2"
    (package / "layers").mkdir(parents=True)
    (package / "__init__.py").touch()
    saved = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "detectron2"}
    for name in saved:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [n for n in sys.modules if n.split(".")[0] == "detectron2"]:
        del sys.modules[name]
    sys.modules.update(saved)


def stand_in() -> ModuleType:
    module = ModuleType("detectron2._C")
    compat._fill_compiled(module)
    return module


def test_apply_twice_installs_one_finder() -> None:
    compat.apply()
    before = list(sys.meta_path)
    compat.apply()
    assert sys.meta_path == before
    assert sys.meta_path.count(compat._finder) == 1


def test_pillow_name_is_added_only_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "LINEAR", "the user's own", raising=False)
    compat._shim_pillow()
    assert PIL.Image.LINEAR == "the user's own"  # type: ignore[attr-defined]
    assert compat._applied == []
    monkeypatch.delattr(PIL.Image, "LINEAR")
    compat._shim_pillow()
    assert PIL.Image.LINEAR == PIL.Image.BILINEAR  # type: ignore[attr-defined]
    assert compat._applied == ["PIL.Image.LINEAR"]


def test_numpy_aliases_are_added_only_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("int", "float", "str"):
        monkeypatch.setattr(np, name, "the user's own", raising=False)
    monkeypatch.setattr(np, "bool", np.bool_, raising=False)  # as in NumPy 2
    compat._shim_numpy()
    assert np.int == np.float == np.str == "the user's own"  # type: ignore[attr-defined]
    assert np.bool is np.bool_
    monkeypatch.delattr(np, "int")
    compat._shim_numpy()
    assert np.int is int  # type: ignore[attr-defined]
    assert compat._applied == ["numpy.int"]


def test_stand_in_names_operator_and_advice() -> None:
    with pytest.raises(compat.NotCompiledError) as rotated:
        stand_in().box_iou_rotated(None, None)
    assert "detectron2._C.box_iou_rotated" in str(rotated.value)
    assert "compile Detectron2" in str(rotated.value)
    assert "\n" not in str(rotated.value)
    with pytest.raises(compat.NotCompiledError, match="use_fast_impl=False"):
        stand_in().COCOevalAccumulate(None, None)


def test_stand_in_answers_the_environment_report() -> None:
    module = stand_in()
    assert "not compiled" in module.get_compiler_version()
    assert "not compiled" in module.get_cuda_version()
    assert module.has_cuda() is False
    assert not hasattr(module, "__path__")  # else Python would take it for a package


def test_0_6_without_compiled_part_gets_the_stand_in(fake_detectron2: Path) -> None:
    (fake_detectron2 / "layers" / "rotated_boxes.py").write_text("from detectron2 import _C\n")
    module = importlib.import_module("detectron2._C")
    assert compat.is_stand_in(module)
    assert "stand-in module detectron2._C" in compat.applied()


def test_compiled_part_is_used_when_there_is_one(fake_detectron2: Path) -> None:
    (fake_detectron2 / "layers" / "rotated_boxes.py").write_text("from detectron2 import _C\n")
    (fake_detectron2 / "_C.py").write_text("def get_compiler_version():\n    return 'GCC'\n")
    module = importlib.import_module("detectron2._C")
    assert not compat.is_stand_in(module)
    assert module.get_compiler_version() == "GCC"


def test_main_branch_falls_back_by_itself(fake_detectron2: Path) -> None:
    """It catches the ImportError and takes the Python COCO evaluation; a stand-in would hide
    that.
    """
    (fake_detectron2 / "layers" / "rotated_boxes.py").write_text("import torch\n")
    with pytest.raises(ImportError):
        importlib.import_module("detectron2._C")


@pytest.fixture
def without_pkg_resources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Not imported yet; whatever a test imports under this name is dropped again."""
    compat.apply()
    saved = sys.modules.pop("pkg_resources", None)
    yield
    sys.modules.pop("pkg_resources", None)
    if saved is not None:
        sys.modules["pkg_resources"] = saved


def test_pkg_resources_finds_package_files() -> None:
    module = ModuleType("pkg_resources")
    compat._fill_resources(module)
    path = Path(module.resource_filename("ssod", "compat.py"))
    assert path.samefile(compat.__file__)
    with pytest.raises(ModuleNotFoundError):
        module.resource_filename("no_such_package_here", "x")


def test_pkg_resources_of_setuptools_comes_first(
    without_pkg_resources: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pkg_resources.py").write_text("resource_filename = 'the user\\'s own'\n")
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", ModuleType("detectron2.model_zoo"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module("pkg_resources").resource_filename == "the user's own"


def test_pkg_resources_stands_in_for_the_model_zoo_only(
    without_pkg_resources: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "detectron2.model_zoo", raising=False)
    assert compat._finder.find_spec("pkg_resources") is None
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", ModuleType("detectron2.model_zoo"))
    assert compat._finder.find_spec("pkg_resources") is not None


def test_detectron2_works_with_the_shims() -> None:
    """Imports the modules that default_setup, the model zoo and the evaluators import."""
    compat.apply()
    environment = importlib.import_module("detectron2.utils.collect_env")
    for name in ("engine", "model_zoo", "evaluation", "data.transforms", "modeling"):
        importlib.import_module(f"detectron2.{name}")
    assert "detectron2" in environment.collect_env_info()


def test_importing_ssod_is_light() -> None:
    code = "import ssod, sys; print([m for m in ('torch', 'numpy', 'PIL', 'detectron2') if m in sys.modules])"
    root = Path(compat.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("first", ["ssod", "detectron2"])
def test_libraries_are_shimmed_in_either_order(tmp_path: Path, first: str) -> None:
    """Before Detectron2 runs, or at once where it is loaded already."""
    (tmp_path / "detectron2.py").write_text(
        "import PIL.Image; READY = hasattr(PIL.Image, 'LINEAR')"
    )
    second = {"ssod": "detectron2", "detectron2": "ssod"}[first]
    code = "import sys; early = 'ssod' in sys.modules; "  # the .pth of `make` has imported it
    code += f"import PIL.Image; vars(PIL.Image).pop('LINEAR', None); import {first}, {second}; "
    code += "print(early, detectron2.READY, hasattr(PIL.Image, 'LINEAR'))"
    root = Path(compat.__file__).parents[1]
    paths = {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True)
    early, ready, shimmed = done.stdout.split()
    assert ready == str(first == "ssod" or early == "True"), done.stderr
    assert shimmed == "True"


def test_public_names_are_found_on_demand() -> None:
    import ssod

    assert callable(ssod.add_ssod_config)
    assert {"add_ssod_config", "SSODTrainer"} <= set(dir(ssod))
    with pytest.raises(AttributeError, match="no_such_name"):
        ssod.no_such_name


@pytest.mark.parametrize("module", ["data", "layers", "engine", "modeling", "evaluation"])
def test_import_ssod_is_enough(module: str) -> None:
    run_python(f"import ssod; import detectron2.{module}")


def test_detectron2_first_in_the_environment_that_make_installs(tmp_path: Path) -> None:
    """Python reads the .pth file there when it starts."""
    shutil.copy(Path(__file__).parents[1] / "requirements" / "ssod_detectron2.pth", tmp_path)
    run_python(
        f"import site; site.addsitedir({str(tmp_path)!r}); import detectron2.data; import ssod"
    )


def run_python(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(compat.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
