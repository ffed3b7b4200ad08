"""What each kind of label error costs, from the AP of the rows of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence, Tuple

from ssod.diagnosis.rows import ALL_LABELS, AS_IS, WITHOUT
from ssod.report.statistics import Estimate, gap_closed, mean_and_deviation, paired_difference

# (what, the row with less of the error, the row with more of it)
COSTS: Tuple[Tuple[str, str, str], ...] = (
    ("all errors of the labels together", "true_labels", AS_IS),
    ("objects without a label", "true_labels", "found_boxes"),
    ("boxes that are inexact or do not regress", "found_boxes", "no_false_labels"),
    ("false labels", "no_false_labels", AS_IS),
    ("of these and of missing labels: wrong classes", "true_classes", AS_IS),
    ("labels that came too late: true ones from the first step", ALL_LABELS, "true_labels"),
)


@dataclass(frozen=True)
class Cost:
    """AP of `better` minus AP of `worse`, mean over the seeds that both have, with its standard
    error.
    """

    what: str
    better: str
    worse: str
    points: Estimate


@dataclass(frozen=True)
class Gain:
    """What unlabelled images bring over the same recipe without them.

    Attributes:
        recipe, truth: AP of the recipe, and of the true labels, minus AP without unlabelled images.
        share: mean `recipe` in percent of mean `truth`. None if true labels bring nothing.
    """

    recipe: Estimate
    truth: Estimate
    share: Optional[float]


Values = Mapping[str, Mapping[int, float]]  # row -> seed -> AP


def costs(values: Values) -> List[Cost]:
    """The costs whose two rows were both run."""
    found = []
    for what, better, worse in COSTS:
        points = paired_difference(values.get(better, {}), values.get(worse, {}))
        if points.count:
            found.append(Cost(what, better, worse, points))
    return found


def gain(values: Values) -> Optional[Gain]:
    """The gain of unlabelled images. None if the recipe or the row without them was not run."""
    without = values.get(WITHOUT, {})
    recipe = paired_difference(values.get(AS_IS, {}), without)
    if not recipe.count:
        return None
    truth = paired_difference(values.get("true_labels", {}), without)
    means = [
        mean_and_deviation(values.get(row, {}).values()).mean
        for row in (AS_IS, WITHOUT, "true_labels")
    ]
    return Gain(recipe, truth, gap_closed(*means))


def format_costs(found: Sequence[Cost], gained: Optional[Gain]) -> str:
    """Markdown: a table of costs and one line on what unlabelled images bring."""
    lines = ["| error of the pseudo-labels | costs AP | from rows |", "|---|---:|---|"]
    lines += [f"| {c.what} | {_points(c.points)} | {c.better} − {c.worse} |" for c in found]
    text = "\n".join(lines) + "\n" if found else ""
    if gained is not None:
        text += f"\nUnlabelled images bring {_points(gained.recipe)} AP"
        if gained.truth.count:
            text += f"; with true labels they would bring {_points(gained.truth)}"
        if gained.share is not None:
            text += f": {gained.share:.0f} % of it is there"
        text += ".\n"
    return text


def _points(value: Estimate) -> str:
    if value.mean is None:
        return "–"
    spread = "" if value.spread is None else f" ± {value.spread:.1f}"
    return f"{value.mean:+.1f}{spread} ({value.count})"
