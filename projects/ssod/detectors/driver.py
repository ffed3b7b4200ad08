"""How the training step drives a family of detectors."""

from __future__ import annotations

from typing import Any, Dict, List, Protocol

from torch import Tensor

from ssod.detectors.rcnn.outputs import TeacherOutputs
from ssod.structures import Views


class DetectorDriver(Protocol):
    """Runs the student and the teacher of `TeacherStudent`, which knows nothing else of them."""

    def label(self, teacher: Any, images: List[Tensor]) -> TeacherOutputs:
        """The teacher's detections on uint8 (3, H, W) images.

        Raises:
            UserError: the family does not label online.
        """

    def run(self, views: Views) -> Any:
        """A forward pass of the student over all streams; gives an object with `labeled`,
        `unlabeled` (None in burn-in) and `extra`.
        """

    def losses(self, outputs: Any) -> Dict[str, Tensor]:
        """The losses of one stream, `labeled` or `unlabeled` of what `run` gives."""

    def checkpointables(self) -> Dict[str, Any]:
        """The objects that a checkpoint saves besides the models' state, by key."""
