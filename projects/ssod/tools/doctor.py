"""Checks the installation or a dataset, and prints the command that fixes each problem.

ssod doctor                                       the installation
ssod doctor photos                                the labels in a folder, whatever tool wrote them
ssod doctor --config-file mine.yaml mine_train    a dataset that a config declares

For a dataset it prints counts, sizes, classes and odd boxes, and writes a contact sheet. The exit
status is 1 if there is a problem. The check of the installation also runs where nothing is
installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, List, Optional, Sequence

from ssod import compat
from ssod.own_data.options import add_dataset_options

# Import name and distribution of what ssod itself needs beside torch, torchvision, Detectron2 and
# OpenCV.
PACKAGES = (
    ("numpy", "numpy"),
    ("PIL", "pillow"),
    ("yaml", "pyyaml"),
    ("fvcore", "fvcore"),
    ("iopath", "iopath"),
    ("pycocotools.mask", "pycocotools"),
    ("faster_coco_eval", "faster-coco-eval"),
    ("fastjsonschema", "fastjsonschema"),
    ("jinja2", "jinja2"),
    ("matplotlib", "matplotlib"),
    ("plotly", "plotly"),
    ("sklearn", "scikit-learn"),
    ("tensorboard", "tensorboard"),
    ("tqdm", "tqdm"),
)

# Packages that Detectron2 imports but its Python-only installation does not install (see
# `detectron2_command`).
DETECTRON2_NEEDS = "cloudpickle future hydra-core omegaconf pydot tabulate termcolor yacs"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `fix` is the command or step that solves a problem."""

    name: str
    text: str
    fix: str = ""
    state: str = "ok"  # or "MISSING", "BROKEN", "note"

    @property
    def is_problem(self) -> bool:
        return self.state in ("MISSING", "BROKEN")

    def __str__(self) -> str:
        line = f"{self.state:<8}{self.name:<18}{self.text}".rstrip()
        return f"{line}\n{'':<8}fix: {self.fix}" if self.fix else line


def pip_install(*requirements: str) -> str:
    """The command that installs packages for the interpreter that runs this."""
    quoted = (f'"{r}"' if "<" in r or ">" in r else r for r in requirements)
    return f"{sys.executable} -m pip install {' '.join(quoted)}"


def detectron2_command() -> str:
    """How to install Detectron2's Python part, which needs no compiler.

    In a checkout its hash is verified.
    """
    pins = Path(__file__).resolve().parents[3] / "requirements" / "detectron2.txt"
    if pins.is_file():
        what = f"--require-hashes --requirement {pins}"
    else:
        flags = '--config-settings="--global-option=build_py" --config-settings="--build-option=--skip-build"'
        what = f"{flags} pb1-detectron2==0.6"
    tools = pip_install("pip<26.2", "setuptools>=77,<81", "wheel", *DETECTRON2_NEEDS.split())
    return f"{tools} && {pip_install('--no-deps --use-pep517 --no-build-isolation', what)}"


def _problem(name: str, error: BaseException, missing: str, broken: str = "") -> Finding:
    """A package that failed to import: absent itself, without one of its own dependencies, or
    broken.
    """
    reason = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {reason[0] if reason else ''}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        absent = error.name.split(".")[0]
        if absent == name.split(".")[0]:
            return Finding(name, "not installed", missing, "MISSING")
        return Finding(name, text, _command_for(absent), "BROKEN")
    return Finding(name, text, broken or missing, "BROKEN")


def _command_for(module: str) -> str:
    special = {
        "torch": pip_install("torch", "torchvision"),
        "detectron2": detectron2_command(),
        "cv2": pip_install("opencv-python-headless"),
        "hydra": pip_install("hydra-core"),
        "torchvision": pip_install("torchvision"),
    }
    distribution = {name.split(".")[0]: dist for name, dist in PACKAGES}.get(module, module)
    return special.get(module, pip_install(distribution))


def _version(module: ModuleType, distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return str(getattr(module, "__version__", "version unknown"))


def check_python() -> Finding:
    text = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < (3, 11):
        return Finding("Python", text, "use Python 3.11, 3.12 or 3.13", "BROKEN")
    return Finding("Python", text)


def check_package(name: str, distribution: str) -> Finding:
    try:
        module = import_module(name)
    except Exception as error:  # a broken package may raise anything; the report goes on
        again = pip_install("--force-reinstall --no-deps", distribution)
        return _problem(name, error, pip_install(distribution), again)
    return Finding(distribution, _version(module, distribution))


def check_torch() -> Finding:
    try:
        torch: Any = import_module("torch")
        build = (
            f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
        )
        return Finding("torch", f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")
    except Exception as error:
        return _problem("torch", error, _command_for("torch"))


def check_torchvision() -> Finding:
    """Runs one compiled operator, because these break first when torch is upgraded alone."""
    try:
        torchvision: Any = import_module("torchvision")
        torch: Any = import_module("torch")
        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
        kept = import_module("torchvision.ops").nms(boxes, torch.tensor([0.5, 0.9]), 0.5)
        if kept.tolist() != [1]:
            raise RuntimeError(f"torchvision.ops.nms kept {kept.tolist()} of two equal boxes")
        return Finding("torchvision", f"{torchvision.__version__}, operators work")
    except Exception as error:
        matching = "install the torchvision release that belongs to your torch, for example: "
        return _problem(
            "torchvision", error, _command_for("torchvision"), matching + _command_for("torch")
        )


def check_devices() -> Finding:
    try:
        torch: Any = import_module("torch")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(count)}))
        backends = [
            b for b in ("gloo", "nccl") if getattr(torch.distributed, f"is_{b}_available")()
        ]
    except Exception:
        return Finding("GPUs", "unknown without torch", state="note")
    ranks = f"ranks over {' or '.join(backends)}" if backends else "one rank only"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count == 0:
        return Finding("GPUs", f"none: trains on {cores} CPU cores (MODEL.DEVICE cpu), {ranks}")
    return Finding("GPUs", f"{count} ({names}): --num-gpus {count}, {cores} CPU cores, {ranks}")


def check_detectron2() -> Finding:
    try:
        detectron2: Any = import_module("detectron2")
        import_module("detectron2.engine")
        import_module("detectron2.model_zoo")
    except Exception as error:
        rebuild = "Detectron2 does not fit this environment; compile it again for this torch, or take its Python part alone: "
        return _problem("detectron2", error, detectron2_command(), rebuild + detectron2_command())
    where = os.path.dirname(detectron2.__file__)
    return Finding("detectron2", f"{detectron2.__version__}, {_compiled_part()} ({where})")


def _compiled_part() -> str:
    try:
        if not compat.is_stand_in(import_module("detectron2._C")):
            return "compiled"
    except ImportError:
        pass
    return "Python part only: no rotated boxes, no deformable convolution"


def check_shims() -> Finding:
    shims = compat.applied()
    return Finding("shims", ", ".join(shims) if shims else "none needed")


def check_opencv() -> Finding:
    try:
        cv2: Any = import_module("cv2")
    except Exception as error:
        again = pip_install("--force-reinstall --no-deps", "opencv-python-headless")
        return _problem("cv2", error, _command_for("cv2"), again)
    installed = sorted(set(packages_distributions().get("cv2", ())))
    if len(installed) > 1:
        text = (
            f"{cv2.__version__}; {' and '.join(installed)} overwrite each other: keep one of them"
        )
        return Finding("opencv", text, state="note")
    return Finding("opencv", f"{cv2.__version__} ({', '.join(installed) or cv2.__file__})")


def examine() -> List[Finding]:
    """Every check, in the order of the report."""
    checks: List[Callable[[], Finding]] = [check_python, check_torch, check_torchvision]
    checks += [check_devices, check_detectron2, check_shims, check_opencv]
    try:
        compat.apply()
    except Exception:  # a broken NumPy or Pillow; their own checks say so
        pass
    findings = [check() for check in checks]
    return findings + [check_package(name, distribution) for name, distribution in PACKAGES]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Prints the report; returns 1 if something is missing or broken."""
    parser = argparse.ArgumentParser(
        prog="ssod doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help="a folder, a file or a name")
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    parser.add_argument("--config-file", metavar="FILE", help="the config that declares DATASET")
    parser.add_argument(
        "--sheet", metavar="FILE", help="the contact sheet (output/doctor/NAME.jpg)"
    )
    add_dataset_options(parser, masks=True)
    args = parser.parse_args(argv)
    if args.dataset:
        return _examine_dataset(args)
    findings = examine()
    problems = [finding for finding in findings if finding.is_problem]
    for finding in problems if args.quiet else findings:
        print(finding)
    if problems:
        print(f"\n{len(problems)} of {len(findings)} need fixing.")
    elif not args.quiet:
        print("\nAll is well.")
    return 1 if problems else 0


def _examine_dataset(args: argparse.Namespace) -> int:
    from ssod.errors import UserError

    try:
        from ssod.own_data.checkup import check_up

        check_up(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error}: run doctor without a dataset first.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
