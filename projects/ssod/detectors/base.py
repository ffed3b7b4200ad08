"""The adapter between the training step and a family of detectors.

`TeacherStudent` knows its two detectors only through a `Detector`. It is a plain object and no
`nn.Module`: it calls the student and the teacher and never holds them as parameters, so a
checkpoint has no second copy of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, ClassVar, Dict, FrozenSet, List, Tuple, Union

from detectron2.config import CfgNode
from torch import Tensor, nn

from ssod.detectors.outputs import Outputs, TeacherOutputs
from ssod.structures import Views


class Capability(Enum):
    """What a family offers to methods. The value completes the sentence "the method needs ..."."""

    # Each label has a weight in classification and one in box regression, and the losses obey both.
    WEIGHTS = "weights of single labels"
    # `StreamOutputs.rows`: the predictions that the losses are made of.
    ROWS = "the rows of the losses"
    # These rows have K + 1 softmax logits.
    SOFTMAX_ROWS = "a softmax over the classes and background"
    # Backbone features of the student and the teacher (`maps`).
    MAPS = "feature maps"
    # It proposes, samples and classifies regions: proposals, `rois`, `classify`.
    REGIONS = "regions (RPN and RoI head)"
    # Its box head has one stage and no cascade, so that a method may put a head of its own there.
    ONE_HEAD = "a box head of one stage"
    # A prediction at each location of the feature maps: `DenseOutputs`.
    DENSE = "dense predictions"
    # Predictions are matched one to one with labels, and a second pass can be given the matches.
    PAIRED = "matched predictions"
    # Instance masks of labels are learnt.
    MASKS = "instance masks"


# One capability, or a tuple of alternatives, of which one is enough.
Need = Union[Capability, Tuple[Capability, ...]]


class Detector(ABC):
    """Runs the student and the teacher of one step; one subclass a family.

    Register it with `ssod.detectors.registry.register_detector`. `serves` and `from_config` say for
    which built models it is used, and how it is built.
    """

    # The family in messages and tables.
    family: ClassVar[str] = ""
    # Those of the whole family. An instance may set fewer.
    capabilities: FrozenSet[Capability] = frozenset()

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Adds the keys that the family's models have beside Detectron2's, in place."""

    @classmethod
    @abstractmethod
    def serves(cls, model: nn.Module) -> bool:
        """Whether this family runs a model that Detectron2's `build_model` has built."""

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> "Detector":
        """The adapter of `student`.

        Raises:
            UserError: the config asks for something that the family cannot do.
        """

    @abstractmethod
    def detect(self, model: Any, images: List[Tensor], floor: float) -> TeacherOutputs:
        """A detector's labels for images, in eval mode and without gradient.

        Args:
            model: the teacher, or any model that `serves` accepts, in eval mode. images: uint8
                (3, H, W). floor: the lowest score of a label.

        Returns:
            `detections` in the images' pixels. Families with more capabilities give more (see
            `TeacherOutputs`).
        """

    @abstractmethod
    def run(self, views: Views) -> Outputs:
        """The student's forward over all streams, and over the images that methods add."""

    @abstractmethod
    def losses(self, outputs: Any) -> Dict[str, Tensor]:
        """The losses of one stream, `labeled` or `unlabeled` of what `run` gives.

        They equal Detectron2's where every weight is 1, also in an image without labels.
        """

    def idle(self) -> List[Tensor]:
        """Parameters that this step's losses may leave without a gradient.

        DDP needs a gradient of zero for them.
        """
        return []

    def checkpointables(self) -> Dict[str, Any]:
        """State that the models' `state_dict` does not have, by its key in the checkpoint.

        Objects with `state_dict` and `load_state_dict`, of tensors and plain values, the same on
        every rank.
        """
        return {}


def lacking(needs: Tuple[Need, ...], has: FrozenSet[Capability]) -> List[Capability]:
    """The needs that are not met. Alternatives are represented by the first one.

    Example:
        >>> lacking((Capability.MAPS,), frozenset())
        [<Capability.MAPS: 'feature maps'>]
    """
    missing = []
    for need in needs:
        choices = need if isinstance(need, tuple) else (need,)
        if not any(choice in has for choice in choices):
            missing.append(choices[0])
    return missing
