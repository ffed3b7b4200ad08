"""The pieces of a page: sections, tables and legends, as HTML."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

# Of the runs, in order; readable on white and for colour-blind eyes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a3d9a", "#8c564b")
TRUTH_COLOUR = "#8a8f98"


@dataclass
class Section:
    """Part of the page.

    Attributes:
        title: plain text. html: everything below the title; use this module's and
            `ssod.plotting.charts`' functions.
    """

    title: str
    html: str


def run_colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def text(value: Any) -> str:
    """Escaped for HTML."""
    return html.escape(str(value))


def number(value: Optional[float], digits: int = 1) -> str:
    """A dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], tall: bool = False) -> str:
    """A table in a box that scrolls; the first column names the rows and stays in sight.

    Args:
        headers, rows: cells as HTML, already escaped. tall: limits the height.
    """
    head = "".join(f"<th scope=col>{cell}</th>" for cell in headers)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>" + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    kind = "scroll tall" if tall else "scroll"
    return f"<div class='{kind}'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def legend(entries: Sequence[Tuple[str, str, bool]]) -> str:
    """A line of (label, colour, dashed) keys."""
    parts = [
        f"<span class=key><i style='border-top:3px {'dashed' if dashed else 'solid'} {colour}'></i>{text(label)}</span>"
        for label, colour, dashed in entries
    ]
    return f"<p class=legend>{''.join(parts)}</p>"


def note(message: str) -> str:
    """A remark in place of something that is not there."""
    return f"<p class=note>{text(message)}</p>"


def grid(items: Sequence[str]) -> str:
    """Charts side by side, as many as fit."""
    return f"<div class=grid>{''.join(items)}</div>"


def listing(items: Sequence[str]) -> str:
    """A bulleted list of escaped HTML."""
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def fold(title: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def unique(values: Sequence[str]) -> List[str]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(values))
