"""Evaluation with Detectron2's evaluators; COCO's numbers are computed by compiled code where it is
installed.
"""

from ssod.evaluation.build import build_evaluator, evaluate
from ssod.evaluation.coco import FastCOCOEvaluator

__all__ = ["FastCOCOEvaluator", "build_evaluator", "evaluate"]
