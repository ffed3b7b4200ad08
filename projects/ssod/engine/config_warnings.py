"""Warnings about settings that are allowed but are probably mistakes."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from detectron2.config import CfgNode

from ssod.methods import get_method, learns_from_unlabeled


def warnings_about(cfg: CfgNode) -> List[str]:
    """One warning for each setting that is allowed but is probably a mistake."""
    found: List[str] = []
    labels = learns_from_unlabeled(cfg)
    if labels and cfg.SSOD.BURN_IN_STEPS >= cfg.SOLVER.MAX_ITER:
        found.append(
            f"No unlabelled image will be used: SSOD.BURN_IN_STEPS {cfg.SSOD.BURN_IN_STEPS} is not below SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}. Lower the one or raise the other."
        )
    if cfg.DATASETS.UNLABELED and not labels:
        methods = ", ".join(cfg.SSOD.METHODS)
        reason = (
            f"none of SSOD.METHODS ({methods}) uses them" if methods else "SSOD.METHODS is empty"
        )
        found.append(
            f"No unlabelled image will be used: DATASETS.UNLABELED names {', '.join(cfg.DATASETS.UNLABELED)}, but {reason}, "
            "so training is supervised. Add ScoreThreshold, for example."
        )
    for key in ("TRAIN", "UNLABELED", "VAL", "TEST"):
        names = list(cfg.DATASETS[key])
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            found.append(f"DATASETS.{key} names {name} {names.count(name)} times: once is enough.")
    for key in ("VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            if labels and any(_same_files(cfg, own, name) for own in cfg.DATASETS.UNLABELED):
                found.append(
                    f"DATASETS.{key} {name} is learned from without its labels (DATASETS.UNLABELED): its AP says little "
                    "about other images."
                )
            same = next((own for own in cfg.DATASETS.TRAIN if _same_files(cfg, own, name)), None)
            if same is not None:
                what = "itself" if same == name else f"(the files of {same})"
                found.append(
                    f"DATASETS.{key} {name} {what} is trained on (DATASETS.TRAIN): its AP says nothing about other images."
                )
    for name in cfg.SSOD.METHODS:
        found.extend(get_method(name).config_warnings(cfg))
    return found


def _same_files(cfg: CfgNode, one: str, other: str) -> bool:
    if one == other:
        return True
    declared: Dict[str, Any] = cfg.SSOD.DATASETS
    first: Optional[Any] = declared.get(one)
    return first is not None and first == declared.get(other)
