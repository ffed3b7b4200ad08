"""A picture for each method, by the method's name."""

from __future__ import annotations

from typing import Callable, Dict

from matplotlib.figure import Figure

from ssod.method_cards import balancing, distilling, selecting, views

PICTURES: Dict[str, Callable[[], Figure]] = {
    "AreaMining": selecting.area_mining,
    "BackgroundWeights": distilling.background_weights_of_the_teacher,
    "BoundedDistillation": distilling.bounded_distillation,
    "C2AM": balancing.c2am,
    "ClassRebalancingSampling": balancing.class_rebalancing_sampling,
    "CropBank": views.crop_bank,
    "DASO": balancing.daso,
    "DeFRCN": balancing.defrcn,
    "DenseTeacher": distilling.dense_teacher,
    "DistributionAlignment": balancing.distribution_alignment,
    "EQLv2": balancing.eqlv2,
    "GMMThreshold": selecting.gmm_threshold,
    "GradientReweighting": balancing.gradient_reweighting,
    "GradientThresholding": selecting.gradient_thresholding,
    "LabelMatchThresholds": selecting.label_match,
    "Listen2Student": distilling.listen2student,
    "MLC": views.mlc,
    "MixUpMosaic": views.mixup_mosaic,
    "MixPL": views.mixpl,
    "PIM": views.pim,
    "PseCo": selecting.pseco,
    "PseudoBoxRegression": selecting.pseudo_box_regression,
    "RepeatFactorSampling": balancing.repeat_factor_sampling,
    "ScoreThreshold": selecting.score_threshold,
    "SelfDistillation": distilling.self_distillation,
    "SoftDistillation": distilling.soft_distillation,
    "SoftTeacher": selecting.soft_teacher,
    "TwoStageFilter": selecting.two_stage_filter,
    "UncertainNegatives": distilling.uncertain_negatives,
}
