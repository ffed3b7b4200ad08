"""The pieces of a page: sections, tables and legends, as HTML.

Every function takes plain strings, which are escaped, and what other functions of
`ssod.plotting` return, which is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from markupsafe import Markup

from ssod.plotting.markup import part

# Colours of the runs, in order, for white and dark pages and for colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#2a9fb8", "#9170cf", "#a56b5c")
TRUTH_COLOUR = "#8a8f98"


@dataclass
class Section:
    """Part of the page.

    Attributes:
        title: plain text. html: everything below the title, as HTML; use this module's functions,
            and those of `ssod.plotting.charts` and `ssod.plotting.pictures`.
    """

    title: str
    html: str


def run_colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def number(value: Optional[float], digits: int = 1) -> str:
    """A dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], tall: bool = False) -> Markup:
    """A table in a box that scrolls; the first column names the rows and stays in sight.

    Args:
        tall: limits the height.
    """
    return part("table", headers, rows, tall)


def legend(entries: Sequence[Tuple[str, str, bool]]) -> Markup:
    """A line of (label, colour, dashed) keys. A click on one switches its lines off and on: those
    of its own chart, and of the section's charts that have no legend.
    """
    return part("legend", entries)


def heading(words: str) -> Markup:
    """The title of a part of a section."""
    return part("heading", words)


def remark(words: str) -> Markup:
    """A paragraph that explains what is seen."""
    return part("remark", words)


def note(message: str) -> Markup:
    """A remark in the place of content that is missing."""
    return part("note", message)


def strong(words: str) -> Markup:
    """Bold."""
    return part("strong", words)


def join(parts: Sequence[str]) -> Markup:
    """Pieces below each other."""
    return Markup("").join(parts)


def boxed(kind: str, parts: Sequence[str]) -> Markup:
    """Pieces in a box of a class of the style sheet."""
    return part("boxed", kind, join(parts))


def grid(items: Sequence[str]) -> Markup:
    """Charts side by side, as many as fit."""
    return boxed("grid", items)


def listing(items: Sequence[str]) -> Markup:
    """A bulleted list."""
    return part("listing", items)


def fold(title: str, content: str) -> Markup:
    """Content that opens on a click."""
    return part("fold", title, content)


def unique(values: Sequence[str]) -> List[str]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(values))
