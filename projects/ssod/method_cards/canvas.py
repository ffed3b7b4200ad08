"""Small figures: panels side by side, images with boxes, bars."""

from __future__ import annotations

import io
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ssod.plotting.section import COLOURS

BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
GREY = "#8a8f98"
_DPI = 100
_COLOURS_OF_A_FILE = 128


def figure(columns: int, width: float = 7.2, height: float = 2.6) -> Tuple[Figure, List[Any]]:
    """A figure with panels side by side."""
    made = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(made)
    axes = list(made.subplots(1, columns, squeeze=False)[0])
    for panel in axes:
        panel.tick_params(labelsize=8)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return made, axes


def titled(panel: Any, title: str, x: str = "", y: str = "") -> None:
    """A title, and names of the axes."""
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)


def show(panel: Any, image: np.ndarray, title: str = "") -> None:
    """An image without axes."""
    panel.imshow(image, interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_xlim(-0.5, image.shape[1] - 0.5)
    panel.set_ylim(image.shape[0] - 0.5, -0.5)
    for side in panel.spines.values():
        side.set_visible(False)
    titled(panel, title)


def draw_boxes(
    panel: Any,
    boxes: Any,
    colour: Any = ORANGE,
    words: Optional[Sequence[str]] = None,
    dashed: bool = False,
    width: float = 1.6,
) -> None:
    """Rectangles over an image. colour: of all, or one for each."""
    for index, box in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4)):
        own = colour if isinstance(colour, str) else colour[index]
        style = "--" if dashed else "-"
        x0, y0, x1, y1 = (float(v) for v in box)
        panel.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=own,
                linewidth=width,
                linestyle=style,
            )
        )
        if words is not None and words[index]:
            panel.text(
                *(x0, y0 - 2),
                words[index],
                color="white",
                fontsize=7,
                va="bottom",
                bbox={"facecolor": own, "edgecolor": "none", "pad": 0.8},
                clip_on=True,
            )


def bars(
    panel: Any,
    groups: Sequence[Tuple[str, Any, str]],
    names: Sequence[str],
    title: str,
    y: str = "",
) -> None:
    """Bars beside each other. groups: (label, values, colour)."""
    width = 0.8 / len(groups)
    for index, (label, values, colour) in enumerate(groups):
        places = np.arange(len(names)) - 0.4 + width * (index + 0.5)
        panel.bar(places, np.asarray(values, dtype=float), width, color=colour, label=label)
    panel.set_xticks(range(len(names)), names)
    if len(groups) > 1:
        panel.legend(fontsize=7, frameon=False)
    titled(panel, title, y=y)


def png(made: Figure) -> bytes:
    """A small file: few colours."""
    first, last = io.BytesIO(), io.BytesIO()
    made.savefig(first, format="png", dpi=_DPI)
    picture = Image.open(first).convert("RGB")
    picture.quantize(_COLOURS_OF_A_FILE).save(last, format="PNG", optimize=True)
    return last.getvalue()
