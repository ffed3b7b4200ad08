"""python -m ssod.tools.method_cards [--output docs/methods.md]

Writes the tables of keys into the page of the methods' cards, from the defaults in the code, and
draws the cards' pictures beside it, with the code of the methods.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List, Optional, Tuple, Type

from detectron2.config import CfgNode, get_cfg

from ssod.detectors.base import lacking
from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.methods.base import Method
from ssod.tools.detector_table import own_families, own_methods, rewrite_page
from ssod.utils.progress import progress

_END = "<!-- end of facts -->"
_FACTS = re.compile(rf"<!-- facts: (\w+) -->\n.*?{_END}", re.DOTALL)
# Beside the page.
FOLDER = "images/methods"


def defaults(method: Type[Method]) -> List[Tuple[str, Any]]:
    """The method's own keys and their defaults, in the order of the code."""
    cfg = get_cfg()
    cfg.SSOD = CfgNode()
    method.add_config(cfg)
    return _leaves("SSOD", cfg.SSOD)


def _leaves(name: str, node: Any) -> List[Tuple[str, Any]]:
    if not isinstance(node, CfgNode):
        return [(name, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(f"{name}.{key}", value)]


def facts(name: str) -> str:
    """The part of a card that follows from the code: detectors and keys, in Markdown."""
    method = dict(own_methods()).get(name)
    if method is None:
        raise UserError(f"it has a card of {name}, which is no method: remove the card.")
    served = [
        kind.family for kind in own_families() if not lacking(method.needs, kind.capabilities)
    ]
    lines = [f"Runs on: {', '.join(served)}."]
    keys = defaults(method)
    if keys:
        lines += ["", "| key | default |", "|---|---|"]
        lines += [f"| `{key}` | `{value!r}` |" for key, value in keys]
    else:
        lines.append("It has no keys of its own.")
    return "\n".join(lines)


def with_facts(page: str) -> str:
    """The page with new facts between the marks of each card."""

    def card(match: "re.Match[str]") -> str:
        name = match.group(1)
        return f"<!-- facts: {name} -->\n\n{facts(name)}\n\n{_END}"

    return _FACTS.sub(card, page)


def carded(page: str) -> List[str]:
    """The methods that have a card."""
    return [match.group(1) for match in _FACTS.finditer(page)]


def draw_pictures(folder: Path) -> None:
    """A PNG for each method."""
    from ssod.method_cards.canvas import png
    from ssod.method_cards.pictures import PICTURES

    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in progress(PICTURES.items(), "Drawing", total=len(PICTURES), unit="picture"):
        (folder / f"{name}.png").write_bytes(png(draw()))


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    text = "Write keys and detectors into the page of the methods, and draw its pictures."
    path = rewrite_page(argv, "method_cards", text, "docs/methods.md", with_facts)
    draw_pictures(path.parent / FOLDER)
    print(f"Wrote {path.parent / FOLDER}")


if __name__ == "__main__":
    run_cli(main)
