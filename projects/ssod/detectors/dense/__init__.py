"""Detectors with a prediction at every location of the feature maps: RetinaNet and FCOS.

Importing this package registers the meta-architecture FCOS, which Detectron2 0.6 has as a class
but not by name.
"""

from ssod.detectors.dense.fcos import FCOSDetector
from ssod.detectors.dense.fcos_model import ConfigurableFCOS
from ssod.detectors.dense.retinanet import RetinaNetDetector

__all__ = ["ConfigurableFCOS", "FCOSDetector", "RetinaNetDetector"]
