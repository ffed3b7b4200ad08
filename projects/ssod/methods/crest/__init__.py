"""CReST and CReST+, which CI-SSOD compares with: Wei et al., "CReST: A Class-Rebalancing
Self-Training Framework for Imbalanced Semi-Supervised Learning", CVPR 2021.

CReST trains in generations (`ssod.tools.run_generations`). CReST+ also aligns the distribution of
the pseudo-labels (`DistributionAlignment`).
"""

from ssod.methods.crest.alignment import (
    DistributionAlignment,
    align_distributions,
    target_distribution,
)
from ssod.methods.crest.sampling import (
    ADDED,
    generation_temperature,
    kept_shares,
    most_confident,
)

__all__ = [
    "ADDED",
    "DistributionAlignment",
    "align_distributions",
    "generation_temperature",
    "kept_shares",
    "most_confident",
    "target_distribution",
]
