"""Pictures of a purification: histogram of the scores, contact sheet of kept and dropped images."""

from __future__ import annotations

import os
from typing import List, Optional, Sequence

import cv2
import numpy as np
import torch

from ssod.data.mapper import UnreadableImage, read_image
from ssod.errors import UserError
from ssod.plotting.section import COLOURS, TRUTH_COLOUR
from ssod.report.contact_sheet import Panel, contact_sheet
from ssod.utils.atomic import write_atomically

HISTOGRAM, SHEET = "histogram.png", "contact_sheet.png"
_PER_KIND = 24


def text_histogram(values: np.ndarray, threshold: float, bins: int = 12, width: int = 40) -> str:
    """A histogram of the finite scores as lines of text. Bins above the threshold are marked."""
    counts, edges = np.histogram(values[np.isfinite(values)], bins=bins)
    most = max(1, int(counts.max()))
    lines = []
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:]):
        mark = "kept" if low >= threshold else ("part" if high > threshold else "")
        bar = "#" * round(width * count / most)
        lines.append(f"{low:9.3f} .. {high:9.3f}  {count:8d}  {bar:<{width}} {mark}".rstrip())
    return "\n".join(lines)


def draw_histogram(
    output: str, values: np.ndarray, threshold: float, positive: Optional[np.ndarray]
) -> str:
    """Writes a PNG of the scores and the threshold. The scores are split by the truth if it is
    known.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    finite = np.isfinite(values)
    figure, axes = plt.subplots(figsize=(7, 4))
    edges = np.histogram_bin_edges(values[finite], bins=50)
    if positive is None:
        axes.hist(values[finite], bins=edges, color=COLOURS[0])
    else:
        for kind, label, colour in (
            (1, "positive in truth", COLOURS[0]),
            (0, "negative in truth", COLOURS[1]),
            (-1, "unknown", TRUTH_COLOUR),
        ):
            chosen = values[finite & (positive == kind)]
            if len(chosen):
                axes.hist(chosen, bins=edges, color=colour, alpha=0.6, label=label)
    axes.axvline(threshold, color="black", linestyle="--", label=f"kept above {threshold:.3g}")
    axes.set_xlabel("score g(x)")
    axes.set_ylabel("wild images")
    axes.legend()
    path = os.path.join(output, HISTOGRAM)
    write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
    )
    plt.close(figure)
    return path


def draw_sheet(
    output: str,
    paths: Sequence[str],
    folder: str,
    kept: np.ndarray,
    values: Optional[np.ndarray],
) -> str:
    """Writes a PNG with kept images above dropped ones, spread evenly over the scores (or over the
    folder).
    """
    cells: List[List[Panel]] = []
    for name, mask in (("kept", kept), ("dropped", ~kept)):
        chosen = np.flatnonzero(mask)
        if values is not None:
            chosen = chosen[np.isfinite(values[chosen])]
            chosen = chosen[np.argsort(-values[chosen], kind="stable")]
        spread = np.unique(np.linspace(0, len(chosen) - 1, _PER_KIND).round().astype(int))
        for index in chosen[spread[spread >= 0]].tolist():
            try:
                image = read_image({"file_name": os.path.join(folder, paths[index])}, "BGR")
            except UnreadableImage:
                continue
            score = "" if values is None else f" {values[index]:.2f}"
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            cells.append([Panel(pixels, f"{os.path.basename(paths[index])} {name}{score}")])
    if not cells:
        raise UserError(f"{folder}: no image can be read: check --wild.")
    done, content = cv2.imencode(".png", contact_sheet(cells, longest=200, width=1700))
    path = os.path.join(output, SHEET)
    write_atomically(path, lambda file: file.write(content.tobytes()))
    return path
