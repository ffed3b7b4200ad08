"""Draws the digit scenes, the dataset of the demo: runs `datasets/digit_scenes.py`, which explains
them.
"""

from __future__ import annotations

import runpy
from typing import List, Optional

from ssod import resources


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    script = runpy.run_path(str(resources.root() / "datasets" / "digit_scenes.py"))
    script["main"](argv)


if __name__ == "__main__":
    main()
