"""Copies the configs and the script of the digit scenes into the wheel; setup.cfg has all else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Below ssod/_resources in the wheel, as `ssod.resources` looks for them.
FOLDERS = (("configs", "**/*.yaml"), ("datasets", "digit_*.*"))


class BuildWithResources(build_py):
    """An editable installation copies nothing: it finds the files in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "ssod" / "_resources"
        shutil.rmtree(target, ignore_errors=True)
        for folder, pattern in FOLDERS:
            for path in sorted((ROOT / folder).glob(pattern)):
                if path.is_file():
                    copy = target / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)


setup(cmdclass={"build_py": BuildWithResources})
