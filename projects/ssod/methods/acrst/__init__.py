"""ACRST: CropBank with adaptive class rebalancing, two-stage filtering, selective supervision."""

from ssod.methods.acrst.crop_bank.method import CropBank
from ssod.methods.acrst.crop_bank.recall import class_sampling_probabilities, pseudo_recall
from ssod.methods.acrst.crop_bank.visibility import visible_fraction
from ssod.methods.acrst.mixup_mosaic.method import MixUpMosaic
from ssod.methods.acrst.two_stage.filter import two_stage_filter
from ssod.methods.acrst.two_stage.method import TwoStageFilter

__all__ = [
    "CropBank",
    "MixUpMosaic",
    "TwoStageFilter",
    "class_sampling_probabilities",
    "pseudo_recall",
    "two_stage_filter",
    "visible_fraction",
]
