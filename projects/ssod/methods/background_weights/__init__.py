"""Background of unlabelled images weighted by the teacher (Soft Teacher, Xu et al., ICCV 2021), on
any host.
"""

from ssod.methods.background_weights.method import BackgroundWeights

__all__ = ["BackgroundWeights"]
