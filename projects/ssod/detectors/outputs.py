"""The outputs of a detector in one step, for all families.

Shapes: N images, R rows over all of them, K foreground classes (class K is background).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generic, List, Optional, TypeVar

from detectron2.structures import Instances
from torch import Tensor

from ssod.structures import View


@dataclass
class Rows:
    """The predictions in a stream's losses: RoIs, dense locations or queries.

    Attributes:
        logits: (R, K+1) of a softmax, or (R, K) of sigmoids.
        labels: (R,) class, K for background.
        label_index: (R,) index of the label in its image that the row is matched with. -1:
            background.
        image_index: (R,) image of the stream.
        valid: (R,) bool; the other rows take part in no loss.
        cls_weights, reg_weights: (R,) weights in the losses; `weigh` of a method changes them.
    """

    logits: Tensor
    labels: Tensor
    label_index: Tensor
    image_index: Tensor
    valid: Tensor
    cls_weights: Tensor
    reg_weights: Tensor


@dataclass
class StreamOutputs:
    """The student's outputs on one stream: all labelled, or all unlabelled images of the step.

    A family with capabilities has a subclass with more.
    """

    view: View

    @property
    def rows(self) -> Optional[Rows]:
        """With `Capability.ROWS`: the predictions; else None."""
        return None

    @property
    def stages(self) -> List[Any]:
        """These outputs in all stages of the box head. Without a cascade there is one stage."""
        return [self]

    def map_stages(self, change: Callable[[Any], Any]) -> Any:
        """A copy in which `change` has replaced every stage.

        For `weigh` of methods that weigh rows: each stage has rows of its own.
        """
        return change(self)


StreamType = TypeVar("StreamType", bound=StreamOutputs)


@dataclass
class Outputs(Generic[StreamType]):
    """The student's outputs in one step.

    Attributes:
        labeled, unlabeled: the two streams; `unlabeled` is None during burn-in.
        extra: backbone features of the images that methods added, by method name. Of a detector of
            queries: its `Predictions`, which have them as `maps`.
    """

    labeled: StreamType
    unlabeled: Optional[StreamType] = None
    extra: Dict[str, Any] = field(default_factory=dict)


@dataclass
class TeacherOutputs:
    """The teacher's outputs on the weak views, in eval mode and without gradient.

    Attributes:
        maps: with `Capability.MAPS`: features, else None.
        proposals: with REGIONS: N `Instances`, else None.
        predictions: with REGIONS: `BoxPredictions` of all proposals, before NMS. With DENSE:
            `DensePredictions`. Else None.
        detections: N `Instances` with pred_boxes, scores, pred_classes above the score floor.
    """

    maps: Any
    proposals: Any
    predictions: Any
    detections: List[Instances]
