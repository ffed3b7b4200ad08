"""A dense detector's outputs in one step, as methods see them.

Shapes: R locations over all images of a stream, K classes (class K is background).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssod.detectors.dense.predictions import DensePredictions
from ssod.detectors.features import FeatureMaps
from ssod.detectors.outputs import Rows, StreamOutputs


@dataclass
class DenseOutputs(StreamOutputs):
    """The student's outputs on one stream.

    Attributes:
        maps: backbone features. predictions: of each image.
        locations: the rows, in the order of `predictions.flat`; see `Rows`.
        gt_boxes: (R, 4) the box of the label that each foreground row is matched with; undefined
            elsewhere.
    """

    maps: FeatureMaps
    predictions: DensePredictions
    locations: Rows
    gt_boxes: Tensor

    @property
    def rows(self) -> Rows:
        """One row a location and anchor."""
        return self.locations

    @property
    def foreground(self) -> Tensor:
        """(F,) indices of the rows that are matched with a label."""
        return (self.locations.label_index >= 0).nonzero().flatten()
