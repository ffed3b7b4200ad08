"""DeFRCN, which CI-SSOD compares with: Qiao et al., "DeFRCN: Decoupled Faster R-CNN for Few-Shot
Object Detection", ICCV 2021.
"""

from ssod.methods.defrcn.calibration import calibrated_scores, class_prototypes
from ssod.methods.defrcn.heads import DecoupledROIHeads, DecoupledRPNHead
from ssod.methods.defrcn.layers import ChannelAffine, scale_gradient
from ssod.methods.defrcn.method import DeFRCN

__all__ = [
    "ChannelAffine",
    "DeFRCN",
    "DecoupledROIHeads",
    "DecoupledRPNHead",
    "calibrated_scores",
    "class_prototypes",
    "scale_gradient",
]
