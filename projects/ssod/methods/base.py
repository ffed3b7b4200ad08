"""The plug-in interface: one `Method` is one idea of one paper.

A step runs these phases in order, each for every method in the order of `SSOD.METHODS`:

    setup, attach (once) -> [view_transform, in the loader]
    -> refine -> views -> weigh -> losses -> update -> activity

A phase returns new values and never edits its arguments. During burn-in there are no pseudo-labels:
`pseudo`, `context.teacher_outputs` and `outputs.unlabeled` are None. `refine` is not called then.
The other phases are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling import GeneralizedRCNN
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ssod.detectors.base import Capability, Need
from ssod.detectors.outputs import Outputs, TeacherOutputs
from ssod.ranges import Range
from ssod.structures import PseudoLabels, SSODBatch, Views

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

MethodType = TypeVar("MethodType", bound="Method")

METHOD_REGISTRY = Registry("SSOD_METHOD")
METHOD_REGISTRY.__doc__ = "Methods by name; `SSOD.METHODS` lists the names in use."


@dataclass
class StepContext:
    """The data of one step that every phase may read, besides its own arguments.

    Attributes:
        step: optimiser steps done so far.
        batch: the samples.
        student, teacher: the two detectors.
        teacher_outputs: None during burn-in, and with stored pseudo-labels (`SSOD.PSEUDO_LABELS`).
        methods: all methods in use, by name.
        shared: results of this step that a method computed for others, by the method's name.
        changes: the number of labels and RoIs that a method's phases changed in this step, and the
            size of the method's losses. By method name, for methods that do not override
            `Method.activity`.
    """

    step: int
    batch: SSODBatch
    student: GeneralizedRCNN
    teacher: GeneralizedRCNN
    teacher_outputs: Optional[TeacherOutputs] = None
    methods: Mapping[str, "Method"] = field(default_factory=dict)
    shared: Dict[str, Any] = field(default_factory=dict)
    changes: Dict[str, Union[float, Tensor]] = field(default_factory=dict)


@dataclass
class TrainingData:
    """The datasets, as methods see them in `setup`.

    Attributes:
        labeled: Detectron2 dataset dicts. unlabeled: the same without annotations.
            `SampleRef.index` is an index into these lists.
        class_names: in the order of the class indices.
    """

    labeled: Sequence[Dict[str, Any]]
    unlabeled: Sequence[Dict[str, Any]]
    class_names: Sequence[str]


@dataclass
class InertPeriod:
    """Statistics of a period in which a method changed nothing, for `Method.inert_reason`.

    Attributes:
        steps: length of the period. last_step: steps done at the end of the period.
        best_score: the highest score of the teacher, 0 if the teacher found nothing.
        candidates, selected: labels per image: those of the teacher, and those that the main branch
            trains on.
    """

    steps: int
    last_step: int
    best_score: float
    candidates: float
    selected: float

    def no_score_passes(self, threshold: float, key: str) -> Optional[str]:
        """The reason for a method that needs scores of `threshold` or more (config key `key`). None
        if the teacher gave such a score.
        """
        if self.best_score >= threshold:
            return None
        found = f"the best is {self.best_score:.2f}" if self.best_score > 0 else "it finds nothing"
        return (
            f"no teacher score passes {threshold:g}: {found}; lower {key} or train longer before mutual learning "
            "(SSOD.BURN_IN_STEPS)"
        )


class Method(nn.Module):
    """Base class. A phase does nothing unless it is overridden.

    State: keep tensors in buffers and other state in `get_extra_state` (tensors and Python scalars
    only). The checkpoint contains the state. It must be the same on every rank, so all-reduce
    statistics before you use them (`ssod.utils.comm`). Add heads that the teacher needs too in
    `attach`, by `add_head`. Parameters of the Method itself are trained with the student but have
    no copy in the teacher. Neither is exported.
    """

    name: str = ""
    # The node under `SSOD` with the method's keys, empty if the method has none.
    # `former_config_keys` has the names of the node in former versions. These still work, with a
    # warning.
    config_key: str = ""
    former_config_keys: Tuple[str, ...] = ()
    # The numbers that keys of this node may have, by the key's name. They are checked at start,
    # whether the method is listed or not.
    ranges: Mapping[str, Range] = {}
    # The parts of the detector that the method needs, see `ssod.detectors.base`. Use () for a
    # method that looks only at labels and images. It then runs on every model. `__init__` may set
    # the value from a key.
    needs: Tuple[Need, ...] = (Capability.REGIONS,)
    # Another way to make the method run on the family than removing it, such as "set SSOD.MY.KEY to
    # False".
    needs_hint: str = ""
    # Methods that must be listed as well: `OtherMethod.__name__`.
    requires: Tuple[str, ...] = ()
    # `groups`: the groups that the method belongs to, with names of your choice. `excludes`: groups
    # whose members cannot be listed together with the method. If a group is in both, a run can have
    # one member of it.
    groups: Tuple[str, ...] = ()
    excludes: Tuple[str, ...] = ()
    # False if the method also works on labelled images alone.
    needs_unlabeled: bool = True
    # True if the method cannot work with stored pseudo-labels (`SSOD.PSEUDO_LABELS`), because
    # `teacher_outputs` is None then.
    needs_online_teacher: bool = False
    # True if the method decides which pseudo-labels the main branch trains on. Mutual learning
    # needs one such method.
    selects_pseudo_labels: bool = False
    # The config key of the lowest score that such a method selects.
    selection_key: str = "SSOD.SCORE_THRESHOLD"
    # True if the method makes boxes of pseudo-labels train the box regression.
    regresses_pseudo_boxes: bool = False
    # True if no box of an unlabelled image regresses but those that the method adds.
    only_own_boxes_regress: bool = False
    # True if `refine` adds rows to the teacher's labels. List such a method after all methods that
    # select.
    adds_labels: bool = False
    # The title of the chart of `activity`.
    activity_unit: str = "labels and RoIs changed, and size of the losses"
    # The factor by which the method's heads change an untrained detector's scores, for
    # `trial_config`.
    trial_score_scale: float = 1.0

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Adds this method's keys to `cfg.SSOD`, in place."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Reads the keyword arguments of `__init__` from the config."""
        return {}

    @classmethod
    def selection_floor(cls, cfg: CfgNode) -> float:
        """The lowest score with which the main branch trains on a label: the value of
        `selection_key`.

        A method that looks at more than the score (the box's size, the image) returns the score
        that is enough by itself. A method with moving thresholds returns their lower bound.
        """
        node, value = cfg, 0.0
        for part in cls.selection_key.split("."):
            node = value = node[part]
        return float(value)

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        """Rescales this method's step counts when the world size is `factor` times the reference,
        in place.
        """

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        """Changes the config in place so that the method acts within the first steps of an
        untrained detector. It sets the method's own keys, and keys of the model such as
        `MODEL.ROI_HEADS.NAME`.

        The composition tests run every method with it. The default gives `selection_key` the value
        `high`.

        Args:
            high, low: typical scores of such a detector. Its scores are 0.1 to 0.25, so these are
                0.2 and 0.1, times `trial_score_scale`.
        """
        if cls.selects_pseudo_labels:
            cfg.merge_from_list([cls.selection_key, high])

    def setup(self, data: TrainingData) -> None:
        """Called once by the trainer, before all other phases."""

    def attach(self, student: GeneralizedRCNN) -> None:
        """Called once, before the optimiser, DDP and the teacher's copy are made. Use `add_head`
        for heads that the teacher needs too.
        """

    def add_head(self, student: GeneralizedRCNN, head: nn.Module) -> None:
        """Stores `head` as `student.ssod_heads[self.name]`. It is trained, averaged into the
        teacher, and not exported.
        """
        if not hasattr(student, "ssod_heads"):
            student.ssod_heads = nn.ModuleDict()
        student.ssod_heads[self.name] = head

    def view_transform(self) -> Optional[Callable]:
        """A picklable `ssod.data.mapper.ViewTransform` that the loader's workers apply to every
        sample.
        """
        return None

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        """Selects, weights or annotates the teacher's labels by columns. The rows stay.

        It must not change state or communicate with other ranks, because hooks that measure
        pseudo-labels call it too, on rank 0 only.
        """
        return pseudo

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        """Changes the student's images or training labels."""
        return views

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        """Changes `cls_weights` or `reg_weights` of sampled RoIs (use `dataclasses.replace`)."""
        return outputs

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        """Returns further losses, already multiplied by their weights. Their names must be new.

        In a step every rank must return the same names. Return a zero if there is nothing to learn.
        """
        return {}

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        """Updates the method's state. It is called on every rank after the losses, once per
        micro-batch, without gradient and autocast.
        """

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        """How much the method has changed in this step: a number or a scalar tensor, 0 for no
        change, never negative.

        It is logged as `activity/<method>`, and the trainer warns if it stays 0 (`inert_reason`).
        It is called after `update`, without gradient, once per micro-batch and on every rank. The
        logged value is the mean. The default counts changes of labels, RoI weights and losses.
        Override it if these are not the point of the method.

        Args:
            outputs: None if no student runs, as in tools that look only at labels.
        """
        return context.changes.get(self.name, 0.0)

    @classmethod
    def config_warnings(cls, cfg: CfgNode) -> List[str]:
        """One line for each setting of a method in `SSOD.METHODS` that is probably a mistake."""
        return []

    def compared_labels(
        self, pseudo: PseudoLabels, context: StepContext
    ) -> Dict[str, List[Tensor]]:
        """Other choices of labels, such as the labels before a filter. Their quality is measured
        together with that of the selected labels.

        Args:
            pseudo: after all methods' `refine`.

        Returns:
            Name -> one bool (M,) for each image.
        """
        return {}

    def present(self, context: StepContext) -> Optional[Tensor]:
        """Which classes the unlabelled images may contain, bool (N, K). None: the method does not
        judge whole images.

        Called after `refine`, by methods that would learn labels which the main branch leaves out.
        """
        return None

    def inert_reason(self, period: InertPeriod) -> str:
        """The likely reason why the method changed nothing in `period`, and what to do. The text is
        the end of a sentence.
        """
        if not period.candidates:
            return (
                "the teacher finds no object above SSOD.PSEUDO_SCORE_FLOOR; train longer before mutual learning "
                "(SSOD.BURN_IN_STEPS)"
            )
        if not period.selected:
            return (
                f"no pseudo-label is selected, and the best teacher score is {period.best_score:.2f}; lower the score "
                "threshold or train longer before mutual learning (SSOD.BURN_IN_STEPS)"
            )
        return (
            f"what it acts on did not occur among {period.selected:.2g} selected of {period.candidates:.2g} labels an image; "
            "check its keys, or remove it from SSOD.METHODS"
        )

    def snapshot(self, step: int) -> Optional[Dict[str, np.ndarray]]:
        """Arrays to publish to the loader after this step, or None. They must be the same on every
        rank.

        They take effect `SSOD.SNAPSHOT_DELAY` steps later. The arrays "repeat_factors_labeled" and
        "repeat_factors_unlabeled" (one float for each image) change how often the sampler draws
        each image.
        """
        return None

    def build_hooks(self) -> List[HookBase]:
        """Hooks for the trainer.

        Detectron2 saves the state of only one hook per class, so keep state in the Method.
        """
        return []

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        """This method's part of the report about one run, from the files that the run has written.
        None for no part.

        Charts, tables and pictures come from `ssod.plotting.charts`, `section` and `pictures`.
        `run.series(key)` gives the numbers that the method has put into the event storage. There is
        no model here, and the run may still be going on.
        """
        return None


def find_method(methods: Mapping[str, Method], kind: Type[MethodType]) -> Optional[MethodType]:
    """The method in use that is an instance of this class or of a derived one. None if there is
    none.

    Example:
        >>> from ssod.methods import get_method
        >>> find_method({}, get_method("PIM")) is None
        True
    """
    return next((method for method in methods.values() if isinstance(method, kind)), None)
