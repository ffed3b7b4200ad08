"""python -m ssod.tools.detector_table [--output docs/detectors.md]

Writes the table of methods and detector families into a page, from what both declare.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple, Type

from detectron2.config import get_cfg

from ssod.config import add_ssod_config
from ssod.detectors.base import Detector, lacking
from ssod.detectors.loss_only import LossOnlyModel
from ssod.detectors.registry import families
from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY
from ssod.methods.base import Method
from ssod.utils.atomic import write_atomically

_BEGIN = "<!-- table: python -m ssod.tools.detector_table -->"
_END = "<!-- end of table -->"


def own_families() -> List[Type[Detector]]:
    """This project's families by name; any other model comes last."""
    own = [kind for kind in families() if kind.__module__.startswith("ssod.")]
    return sorted(own, key=lambda kind: (kind is LossOnlyModel, kind.family))


def own_methods() -> List[Tuple[str, Type[Method]]]:
    """This project's methods by name."""
    add_ssod_config(get_cfg())  # imports them
    found: List[Any] = [
        entry for entry in METHOD_REGISTRY if entry[1].__module__.startswith("ssod.")
    ]
    return sorted(found)


def serves(family: Type[Detector], method: Type[Method]) -> bool:
    """Whether the method runs on the family, with its keys as they are by default or with others
    (`Method.needs_hint`).
    """
    return not lacking(method.needs, family.capabilities)


def table() -> str:
    """The table in Markdown."""
    columns = own_families()
    lines = ["| method | " + " | ".join(kind.family for kind in columns) + " |"]
    lines.append("| --- |" + " :---: |" * len(columns))
    for name, method in own_methods():
        cells = ["yes" if serves(kind, method) else "–" for kind in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with a new table between its two marks.

    Raises:
        UserError: a mark is missing.
    """
    head, begin, rest = page.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"it lacks the lines {_BEGIN} and {_END}: add them around the table.")
    return f"{head}{begin}\n{table()}\n{end}{tail}"


def rewrite_page(
    argv: Optional[List[str]], tool: str, text: str, page: str, new: Callable[[str], str]
) -> Path:
    """A command that takes `--output`, by default `page`, and replaces that page by `new` of it.

    Args:
        argv: arguments. None: those of the process.
        tool, text: the command's name, and what it does.

    Returns:
        The page's path.

    Raises:
        UserError: the page does not exist, or `new` refuses it.
    """
    parser = argparse.ArgumentParser(prog=f"python -m ssod.tools.{tool}", description=text)
    parser.add_argument("--output", default=page, help="page (default: %(default)s)")
    path = Path(parser.parse_args(argv).output)
    if not path.is_file():
        raise UserError(f"{path} does not exist: run this in the repository's root.")
    try:
        changed = new(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    write_atomically(str(path), lambda file: file.write(changed.encode()))
    print(f"Wrote {path}")
    return path


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    text = "Write the table of methods and detector families into a page."
    rewrite_page(argv, "detector_table", text, "docs/detectors.md", with_table)


if __name__ == "__main__":
    run_cli(main)
