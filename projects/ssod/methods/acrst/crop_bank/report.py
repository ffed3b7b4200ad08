"""CropBank's part of the report."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ssod.methods.acrst.crop_bank.hooks import FOLDER
from ssod.plotting.charts import Bars, Line, bar_chart, line_chart
from ssod.plotting.pictures import Card, Shot, data_uri, pictures
from ssod.plotting.section import Section, grid, note, run_colour

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData


def crop_bank_section(run: "RunData") -> Optional[Section]:
    """Class statistics, shares and divergence over training, and pictures of pasted views. None
    before there are any.
    """
    charts = [
        bar_chart(
            title, list(latest), [Bars(title, list(latest.values()), run_colour(0))], digits=d
        )
        for key, title, d in (
            ("pseudo_recall", "Pseudo recall of each class", 2),
            ("mu", "Probability of drawing each class", 3),
            ("size", "Instances of each class in the bank", 0),
        )
        for latest in [_latest(run, key)]
    ]
    lines = []
    for index, stream in enumerate(("unlabeled", "labeled")):
        for key, what in (("", "all"), ("_without_pasted", "without pasted ones")):
            points = run.series(f"crop_bank/foreground_share{key}/{stream}")
            lines.append(Line(f"{stream}, {what}", points, run_colour(index), bool(key)))
    charts.append(line_chart("Foreground share of the sampled RoIs", lines, low=0.0))
    divergence = Line("KL", run.series("crop_bank/kl_pseudo_truth"), run_colour(0))
    charts.append(
        line_chart("KL(pseudo-labels ‖ labelled truth) of the classes, nats", [divergence], low=0.0)
    )
    charts = [chart for chart in charts if chart]
    gallery = _gallery(os.path.join(run.folder, FOLDER))
    if not charts and not gallery:
        return None
    return Section("CropBank", grid(charts) + gallery)


def _latest(run: "RunData", key: str) -> Dict[str, float]:
    prefix = f"crop_bank/{key}/"
    names = [name for name in run.keys() if name.startswith(prefix)]
    # metrics.json has no order of classes. The most frequent classes of the bank come first.
    size = {name: run.series(f"crop_bank/size/{name[len(prefix):]}") for name in names}
    names.sort(key=lambda name: -size[name][-1][1] if size[name] else 0.0)
    values = {name[len(prefix) :]: run.series(name) for name in names}
    return {name: points[-1][1] for name, points in values.items() if points}


def _gallery(folder: str) -> str:
    try:
        with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
            record: Dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return ""
    cards: List[Card] = []
    for row in record["images"]:
        try:
            with open(os.path.join(folder, row["picture"]), "rb") as file:
                uri = data_uri(file.read())
        except OSError:
            continue
        caption = f"{row['labels']} labels, {row['pasted']} pasted, {row['regress']} regress"
        cards.append(Card([Shot(caption, uri)], os.path.basename(row["file_name"])))
    head = note(
        f"Strong views of step {record['step']} with the labels they were trained towards; boxes marked +box regress."
    )
    return head + pictures(cards)
