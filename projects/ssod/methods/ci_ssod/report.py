"""The report's sections about the methods of this folder, from the files that `RecordArrays` has
written.

Shapes: K foreground classes (class K is background).
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from ssod.methods.shared.recording import read_recorded
from ssod.plotting.charts import Bars, Line, bar_chart, line_chart
from ssod.plotting.pictures import data_uri, image
from ssod.plotting.run_data import RunData
from ssod.plotting.section import TRUTH_COLOUR, Section, grid, remark, run_colour

Record = Tuple[int, Dict[str, np.ndarray]]

# The number of lines in one chart, and of matrices in the time line.
_MOST_LINES = 8
_MOST_MATRICES = 6
_DECADES = 3.0  # gradients that are smaller than the largest by more decades are white


def heat_map(matrix: np.ndarray, pixels: int = 280) -> str:
    """(K+1, K+1) gradients as a PNG in a data URI: blue pushes the logit up, red down, on a
    logarithmic scale.

    If there are more classes than pixels, a pixel shows the largest gradient of a block, so that
    the diagonal stays visible.
    """
    block = -(-len(matrix) // pixels)
    if block > 1:
        size = -(-len(matrix) // block)
        padded = np.pad(matrix, (0, size * block - len(matrix)))
        blocks = padded.reshape(size, block, size, block).swapaxes(1, 2).reshape(size, size, -1)
        strongest = np.abs(blocks).argmax(axis=2)[..., None]
        matrix = np.take_along_axis(blocks, strongest, axis=2)[..., 0]
    strength = np.abs(matrix)
    with np.errstate(divide="ignore"):
        largest = strength.max()
        depth = 1 + np.log10(strength / largest) / _DECADES if largest > 0 else 0 * strength
    depth = np.clip(depth, 0.0, 1.0)[..., None]
    colours = np.where(matrix[..., None] < 0, (178.0, 114.0, 0.0), (0.0, 60.0, 200.0))  # BGR
    picture = (255 + depth * (colours - 255)).astype(np.uint8)
    scale = max(1, pixels // len(matrix))
    picture = np.kron(picture, np.ones((scale, scale, 1), dtype=np.uint8))
    return data_uri(cv2.imencode(".png", picture)[1].tobytes(), "png")


def _spread(count: int, most: int) -> List[int]:
    return sorted({round(float(i)) for i in np.linspace(0, count - 1, min(count, most))})


def _class_lines(records: Sequence[Record], key: str) -> List[Line]:
    """One line for each class. If there are many classes, it shows some of them over the whole
    range of the last values.
    """
    last = records[-1][1]
    order = np.argsort(last[key], kind="stable")
    chosen = sorted(order[_spread(len(order), _MOST_LINES)].tolist())
    return [
        Line(
            str(last["classes"][index]),
            [(step, float(arrays[key][index])) for step, arrays in records],
            run_colour(position),
        )
        for position, index in enumerate(chosen)
    ]


def _bars(records: Sequence[Record], title: str, series: Sequence[Tuple[str, str]]) -> str:
    """Bars of the last record's values of all classes. `series`: pairs (array, label)."""
    last = records[-1][1]
    bars = [
        Bars(label, last[key].tolist(), run_colour(index))
        for index, (key, label) in enumerate(series)
    ]
    return bar_chart(title, [str(name) for name in last["classes"]], bars)


def _balance_charts(records: Sequence[Record]) -> str:
    chosen = [records[i] for i in _spread(len(records), _MOST_MATRICES)]
    matrices = [
        image(f"Gradient matrix, step {step}", heat_map(arrays["gradients"]), "pixelated")
        for step, arrays in chosen
    ]
    classes = [str(name) for name in records[-1][1]["classes"]]
    names = ", ".join(classes if len(classes) <= 12 else [*classes[:12], "..."])
    meaning = remark(
        "Row: the logit that receives the gradient; column: the label of the RoIs that it comes "
        f"from; background after the classes ({names}). Blue raises the logit, red lowers it; "
        "three decades, logarithmic. A class is in balance when the weighted blue of its row equals "
        "the weighted red."
    )
    background = [(s, float(a["background_weight"][0])) for s, a in records]
    lines = _class_lines(records, "weight")
    lines.append(Line("background", background, TRUTH_COLOUR, True))
    charts = [
        line_chart("Class weights", lines),
        _bars(records, "Class weights at the end", [("weight", "w")]),
    ]
    return meaning + grid(matrices) + grid(charts)


def balance_section(run: RunData, name: str) -> Optional[Section]:
    """GbR: the gradient matrix over time, and the weights."""
    records = read_recorded(run.folder, name)
    if not records:
        return None
    return Section("Gradient-based reweighting", _balance_charts(records))


def threshold_section(run: RunData, name: str) -> Optional[Section]:
    """GbT and LabelMatch: thresholds over time; GbT without GbR shows the matrix too."""
    records = read_recorded(run.folder, name)
    if not records:
        return None
    charts = [
        line_chart(
            "Thresholds of the classes", _class_lines(records, "threshold"), low=0.0, high=1.0
        ),
        _bars(records, "Thresholds at the end", [("threshold", "threshold")]),
    ]
    if "score_mean" in records[-1][1]:
        charts.append(
            _bars(records, "Mean score of the teacher's detections", [("score_mean", "mean")])
        )
    body = grid(charts)
    if "gradients" in records[-1][1]:
        body += _balance_charts(records)
    return Section("Thresholds per class", body)


def sampling_section(run: RunData, name: str) -> Optional[Section]:
    """CrS: sampling rates of the classes, repeat factors of the images, and class histograms (Fig.
    4).
    """
    records = read_recorded(run.folder, name)
    if not records:
        return None
    last = records[-1][1]
    counts = {
        key: np.maximum(last[key], 0.0) for key in ("labeled_images", "pseudo_labeled_images")
    }
    histogram = [
        Bars("labelled", np.log10(1 + counts["labeled_images"]).tolist(), run_colour(0)),
        Bars(
            "pseudo-labelled", np.log10(1 + counts["pseudo_labeled_images"]).tolist(), run_colour(1)
        ),
    ]
    means = [
        Line(label, [(s, float(a[key].mean())) for s, a in records], run_colour(i))
        for i, (key, label) in enumerate(
            (("labeled_factors", "labelled"), ("unlabeled_factors", "unlabelled"))
        )
    ]
    edges = [1.0, 1.0001, 1.25, 1.5, 2.0, 3.0, np.inf]
    labels = ["1", "to 1.25", "to 1.5", "to 2", "to 3", "more"]
    shares = [
        Bars(
            label,
            (100 * np.histogram(last[key], edges)[0] / max(1, len(last[key]))).tolist(),
            run_colour(i),
        )
        for i, (key, label) in enumerate(
            (("labeled_factors", "labelled"), ("unlabeled_factors", "unlabelled"))
        )
    ]
    charts = [
        line_chart("Sampling rates of the classes, S", _class_lines(records, "rate"), low=1.0),
        line_chart("Mean repeat factor", means, low=1.0),
        bar_chart("Repeat factors at the end, % of images", labels, shares, digits=1),
        bar_chart(
            "Images with each class, log10(1 + count)",
            [str(name) for name in last["classes"]],
            histogram,
        ),
    ]
    generation = int(last["generation"][0])
    when = remark(f"Generation {generation} at step {records[-1][0]}.")
    return Section("Class-rebalancing sampling", when + grid(charts))
