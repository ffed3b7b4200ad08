"""Files that a run writes every so many steps, one for each of these steps."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import List, Tuple


@dataclass(frozen=True)
class StepFiles:
    """The files `<folder>/<prefix>step_<n><suffix>`; n is the number of steps done.

    Example:
        >>> files = StepFiles("output/pseudo_quality", ".json")
        >>> files.path(500)
        'output/pseudo_quality/step_500.json'

    Attributes:
        folder: may be missing. suffix: with its dot. prefix: tells apart the files that several
            writers keep in one folder.
    """

    folder: str
    suffix: str
    prefix: str = ""

    def path(self, step: int) -> str:
        """The file of a step."""
        return os.path.join(self.folder, f"{self.prefix}step_{step}{self.suffix}")

    def found(self) -> List[Tuple[int, str]]:
        """(step, path) of the files that exist, in the order of the steps."""
        pattern = re.compile(rf"{re.escape(self.prefix)}step_(\d+){re.escape(self.suffix)}")
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        matches = [match for match in map(pattern.fullmatch, names) if match]
        steps = sorted((int(match.group(1)), match.group(0)) for match in matches)
        return [(step, os.path.join(self.folder, name)) for step, name in steps]

    def drop_after(self, step: int) -> None:
        """Removes the files of later steps.

        A run that starts again after `step` writes them again.
        """
        for later, path in self.found():
            if later > step:
                os.remove(path)
