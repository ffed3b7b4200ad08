"""SSD of torchvision: SSD300, SSDLite, or its heads on a backbone of Detectron2.

Importing this package registers the meta-architecture `SSD` and its adapter.
"""

from ssod.detectors.ssd.detector import SSDDetector
from ssod.detectors.ssd.model import SSD

__all__ = ["SSD", "SSDDetector"]
