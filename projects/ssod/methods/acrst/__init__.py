"""ACRST: CropBank with adaptive class rebalancing, two-stage filtering, selective supervision."""

from ssod.methods.acrst.crop_bank import CropBank
from ssod.methods.acrst.mixup_mosaic import MixUpMosaic
from ssod.methods.acrst.recall import class_sampling_probabilities, pseudo_recall
from ssod.methods.acrst.two_stage import two_stage_filter
from ssod.methods.acrst.two_stage_method import TwoStageFilter
from ssod.methods.acrst.visibility import visible_fraction

__all__ = [
    "CropBank",
    "MixUpMosaic",
    "TwoStageFilter",
    "class_sampling_probabilities",
    "pseudo_recall",
    "two_stage_filter",
    "visible_fraction",
]
