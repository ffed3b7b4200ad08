"""How many boxes of each class a run's images have, labelled and unlabelled (CI-SSOD, Fig. 4)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Dict, Optional, Sequence, Tuple

from detectron2.data import MetadataCatalog

from ssod.data.records import trained_classes
from ssod.data.truth import read_truth
from ssod.errors import UserError
from ssod.plotting.charts import Bars, bar_chart
from ssod.plotting.run_data import RunData
from ssod.plotting.section import TRUTH_COLOUR, Section, join, run_colour
from ssod.report.gallery import read_dataset
from ssod.report.sections import shown_classes

# Class -> boxes.
Counts = Dict[str, int]


def data_section(runs: Sequence[RunData]) -> Optional[Section]:
    """A histogram for each choice of data among the runs; data that cannot be read here is left
    out.

    A run without unlabelled images has none of its own if another run has the same labelled ones.
    """
    counted = {}
    for data, run in {_data_of(run): run for run in reversed(runs)}.items():
        try:
            labeled, unlabeled = count_boxes(run)
        except (UserError, OSError, KeyError):
            continue
        if labeled:
            counted[data] = run, labeled, unlabeled
    with_unlabeled = {train for train, extra in counted if extra}
    charts = []
    for (train, extra), (run, labeled, unlabeled) in counted.items():
        if not extra and train in with_unlabeled:
            continue
        total = Counter(labeled) + Counter(unlabeled)
        names, remark = shown_classes(
            {name: float(total[name]) for name in sorted(labeled, key=lambda n: -total[n])}
        )
        sources = [("labelled", labeled, run_colour(0))]
        if unlabeled:
            sources.append(("unlabelled, by their truth", unlabeled, TRUTH_COLOUR))
        bars = [
            Bars(
                f"{label}: {sum(counts.values()):,} boxes",
                [math.log10(1 + counts.get(name, 0)) for name in names],
                colour,
            )
            for label, counts, colour in sources
        ]
        title = f"{' + '.join(run.get('DATASETS.TRAIN'))}: boxes of each class, log10(1 + count){remark}"
        charts.append(bar_chart(title, names, bars))
    return Section("Data", join(charts[::-1])) if charts else None


def _data_of(run: RunData) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """What identifies a run's labelled sets, and its unlabelled ones."""

    def declared(key: str) -> Tuple[str, ...]:
        return tuple(f"{name} {run.get(f'SSOD.DATASETS.{name}')}" for name in run.get(key, []))

    return declared("DATASETS.TRAIN"), declared("DATASETS.UNLABELED")


def count_boxes(run: RunData) -> Tuple[Counts, Counts]:
    """Boxes of each class on the labelled images, and on the unlabelled ones as far as a TRUTH is
    declared ({}: none is).

    Raises:
        UserError, OSError, KeyError: the files are not on this machine.
    """
    labeled: Counts = {}
    for name in run.get("DATASETS.TRAIN", []):
        records, metadata = read_dataset(run, name)
        labeled = labeled or dict.fromkeys(metadata.thing_classes, 0)
        for record in records:
            for label in trained_classes(record):
                labeled[metadata.thing_classes[label]] += 1
    names = list(labeled)
    unlabeled: Counts = {}
    for name in run.get("DATASETS.UNLABELED", []):
        file = MetadataCatalog.get(name).get("truth_file")
        if file:
            for image in read_truth(file, names).values():
                for label in image.classes.tolist():
                    unlabeled[names[label]] = unlabeled.get(names[label], 0) + 1
    return labeled, unlabeled
