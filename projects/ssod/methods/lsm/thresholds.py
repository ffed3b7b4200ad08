"""Which threshold the main branch uses, so that PIM stays below it."""

from __future__ import annotations

import re
from typing import Tuple

from detectron2.config import CfgNode


def main_threshold(cfg: CfgNode) -> Tuple[str, float]:
    """The main branch's score threshold t, as (config key, value).

    A method that chooses pseudo-labels by a threshold of its own has it in `SSOD.<METHOD>.SCORE_THRESHOLD` (TwoStageFilter,
    ...); for all others it is `SSOD.SCORE_THRESHOLD`. Where several choose, a label must pass the highest.
    """
    from ssod.methods import get_method  # imports this module in turn

    default = ("SSOD.SCORE_THRESHOLD", float(cfg.SSOD.SCORE_THRESHOLD))
    found = []
    for name in cfg.SSOD.METHODS:
        if get_method(name).selects_pseudo_labels:
            node = cfg.SSOD.get(config_node(name))
            own = isinstance(node, CfgNode) and "SCORE_THRESHOLD" in node
            key = f"SSOD.{config_node(name)}.SCORE_THRESHOLD"
            found.append((key, float(node.SCORE_THRESHOLD)) if own else default)
    return max(found, key=lambda entry: entry[1], default=default)


def config_node(method: str) -> str:
    """Name of a method's config node: TwoStageFilter -> TWO_STAGE_FILTER."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", method).upper()
