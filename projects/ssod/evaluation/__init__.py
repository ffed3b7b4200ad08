"""Evaluation with Detectron2's evaluators; COCO's numbers are computed by compiled code where it is installed."""

from ssod import compat

compat.apply()

from ssod.evaluation.build import build_evaluator, evaluate  # noqa: E402
from ssod.evaluation.coco import FastCOCOEvaluator  # noqa: E402

__all__ = ["FastCOCOEvaluator", "build_evaluator", "evaluate"]
