"""Counts what a method's phases change, for methods that do not count it themselves.

The counts stay on the device. The training loop fetches the numbers of a step together.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Union

import torch
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.methods import Method, StepContext
from ssod.structures import WEIGHT_COLUMNS, PseudoLabels

PREFIX = "activity/"
# Metrics that are means over the steps between two lines of metrics.json. Values of single steps
# would miss rare events.
MEAN_PREFIX = "activity_mean/"


def note_changes(context: StepContext, method: Method, before: Any, after: Any) -> None:
    """Adds the changes that one phase of `method` made to `context.changes`.

    Args:
        before, after: `PseudoLabels` (refine), `Outputs` (weigh), or None and a dict of losses.
    """
    if type(method).activity is not Method.activity or before is after:
        return
    if isinstance(after, PseudoLabels):
        count = changed_labels(before, after)
    elif isinstance(after, Outputs):
        count = reweighted_rois(before, after)
    else:
        count = sum(loss.detach().float().abs() for loss in after.values())
    context.changes[method.name] = context.changes.get(method.name, 0.0) + count


def changed_labels(before: PseudoLabels, after: PseudoLabels) -> Tensor:
    """The number of labels that were newly selected, newly left out, or selected with another
    weight.

    For a method that adds rows (`Method.adds_labels`), this counts the selected rows of the images
    whose number of rows changed.
    """
    total: Any = 0
    for old, new in zip(before.instances, after.instances):
        if len(old) != len(new):
            total = total + new.selected.sum()
            continue
        changed = old.selected != new.selected
        if new.has("rpn_selected"):
            own = old.rpn_selected if old.has("rpn_selected") else old.selected
            changed = changed | (own != new.rpn_selected)
        for column in WEIGHT_COLUMNS:
            changed = changed | (new.selected & (old.get(column) != new.get(column)))
        total = total + changed.sum()
    return torch.as_tensor(total).float()


def reweighted_rois(before: Outputs, after: Outputs) -> Tensor:
    """The number of sampled RoIs, in either stream, that have another weight."""
    total: Any = 0
    for old, new in ((before.labeled, after.labeled), (before.unlabeled, after.unlabeled)):
        if old is not None and new is not None:
            changed = (old.cls_weights != new.cls_weights) | (old.reg_weights != new.reg_weights)
            total = total + changed.sum()
    return torch.as_tensor(total).float()


@torch.no_grad()
def step_numbers(
    methods: Mapping[str, Method],
    outputs: Optional[Outputs],
    pseudo: Optional[PseudoLabels],
    context: StepContext,
) -> Dict[str, Union[float, Tensor]]:
    """`activity/<method>` of each method."""
    return {
        PREFIX + name: method.activity(outputs, pseudo, context) for name, method in methods.items()
    }
