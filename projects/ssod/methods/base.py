"""The plug-in interface: one `Method` is one idea of one paper.

A step runs these phases in order, each for every method in the order of `SSOD.METHODS`:

    setup, attach (once) -> [view_transform, in the loader]
    -> refine -> views -> weigh -> losses -> update -> activity

A phase returns new values and never edits what it was given. During burn-in there are no
pseudo-labels: `pseudo`, `context.teacher_outputs` and `outputs.unlabeled` are None, `refine` is not
called, the rest is.
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
        shared: what a method computed in this step for others, under its own name.
        changes: labels and RoIs that a method's phases changed in this step, and the size of its
            losses, by method name; of methods that do not override `Method.activity`.
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
        labeled: Detectron2 dataset dicts. unlabeled: the same without annotations;
            `SampleRef.index` counts in them.
        class_names: in the order of the class indices.
    """

    labeled: Sequence[Dict[str, Any]]
    unlabeled: Sequence[Dict[str, Any]]
    class_names: Sequence[str]


@dataclass
class InertPeriod:
    """Statistics of a period in which a method changed nothing, for `Method.inert_reason`.

    Attributes:
        steps: its length. last_step: steps done at its end.
        best_score: the highest score that the teacher gave, 0 if it found nothing.
        candidates, selected: the teacher's labels, and those that the main branch trains on, per
            image.
    """

    steps: int
    last_step: int
    best_score: float
    candidates: float
    selected: float

    def no_score_passes(self, threshold: float, key: str) -> Optional[str]:
        """The reason of a method that needs scores from `threshold` (config key `key`) on; None if
        there was one.
        """
        if self.best_score >= threshold:
            return None
        found = f"the best is {self.best_score:.2f}" if self.best_score > 0 else "it finds nothing"
        return (
            f"no teacher score passes {threshold:g}: {found}; lower {key} or train longer before mutual learning "
            "(SSOD.BURN_IN_STEPS)"
        )


class Method(nn.Module):
    """Base class; every phase does nothing until overridden.

    State: tensors are buffers, other state goes through `get_extra_state` (tensors and Python
    scalars only). It is in the checkpoint and must be the same on every rank: all-reduce statistics
    before they are used (`ssod.utils.comm`). Heads that the teacher needs too are added in `attach`
    by `add_head`; parameters of the Method itself are trained with the student but have no
    teacher's copy. Neither is exported.
    """

    name: str = ""
    # The node under `SSOD` with the method's keys, empty if it has none, and names that the node
    # had in former versions: these still work, with a warning.
    config_key: str = ""
    former_config_keys: Tuple[str, ...] = ()
    # What it needs of the detector, see `ssod.detectors.base`; () for a method that looks at labels
    # and images alone, which runs on every model. `__init__` may set it from a key.
    needs: Tuple[Need, ...] = (Capability.REGIONS,)
    # What else than removing it makes the family do, such as "set SSOD.MY.KEY to False".
    needs_hint: str = ""
    # What it goes without, with a warning, where the family lacks it.
    profits_from: Tuple[Capability, ...] = ()
    # Methods that must be listed as well: `OtherMethod.__name__`.
    requires: Tuple[str, ...] = ()
    # `groups`: those that the method belongs to, with names of your choice. `excludes`: groups
    # whose members cannot be listed beside it. A run can have one member of a group that is in
    # both.
    groups: Tuple[str, ...] = ()
    excludes: Tuple[str, ...] = ()
    # False if it also works on labelled images alone.
    needs_unlabeled: bool = True
    # True if it cannot work with stored pseudo-labels (`SSOD.PSEUDO_LABELS`), where
    # `teacher_outputs` is None.
    needs_online_teacher: bool = False
    # True if it decides which pseudo-labels the main branch trains on; one of these is needed for
    # mutual learning.
    selects_pseudo_labels: bool = False
    # The config key of the lowest score that such a method selects.
    selection_key: str = "SSOD.SCORE_THRESHOLD"
    # True if boxes of pseudo-labels regress because of it.
    regresses_pseudo_boxes: bool = False
    # True if `refine` adds rows of its own to the teacher's labels. Such a method stands after all
    # that select.
    adds_labels: bool = False
    # What `activity` counts, as the title of a chart.
    activity_unit: str = "labels and RoIs changed, and size of the losses"
    # What its heads multiply an untrained detector's scores by, for `trial_config`.
    trial_score_scale: float = 1.0

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Adds this method's keys to `cfg.SSOD`, in place."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Keyword arguments of `__init__`."""
        return {}

    @classmethod
    def selection_floor(cls, cfg: CfgNode) -> float:
        """The lowest score with which the main branch trains on a label: the value of
        `selection_key`.

        A method that looks at more than the score (the box's size, the image) says from which score
        on that score alone is enough. One whose thresholds move says how low they may get.
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
        """Sets what the method needs to act within the first steps of an untrained detector, in
        place: its own keys, and those of the model, such as `MODEL.ROI_HEADS.NAME`.

        The composition tests run every method with it. The default gives `selection_key` the value
        `high`.

        Args:
            high, low: scores that such a detector's lie around. It gives 0.1 to 0.25, so they are
                0.2 and 0.1, times `trial_score_scale`.
        """
        if cls.selects_pseudo_labels:
            cfg.merge_from_list([cls.selection_key, high])

    def setup(self, data: TrainingData) -> None:
        """Called once by the trainer, first of all."""

    def attach(self, student: GeneralizedRCNN) -> None:
        """Called once, before the optimiser, DDP and the teacher's copy; `add_head` adds what the
        teacher needs too.
        """

    def add_head(self, student: GeneralizedRCNN, head: nn.Module) -> None:
        """Makes `head` `student.ssod_heads[self.name]`: trained, averaged into the teacher, not
        exported.
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
        """Selects, weights or annotates the teacher's labels by columns; rows stay.

        Changes no state and talks to no other rank: hooks that measure pseudo-labels call it too,
        on rank 0 alone.
        """
        return pseudo

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        """Changes what the student sees or is trained towards."""
        return views

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        """Changes `cls_weights` or `reg_weights` of sampled RoIs (use `dataclasses.replace`)."""
        return outputs

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        """Further losses, already multiplied by their weight; names must not exist yet.

        In a step every rank must return the same names: where there is nothing to learn, return a
        zero.
        """
        return {}

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        """Updates the method's state: no gradient, no autocast, once a micro-batch, after the
        losses, on every rank.
        """

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        """How much the method has changed in this step, 0 if nothing: a number, or a scalar tensor,
        of no less than 0.

        It is logged as `activity/<method>`, and the trainer warns when it stays 0 (`inert_reason`).
        Called after `update`, without gradient, once a micro-batch and on every rank; the logged
        value is the mean. Override it where the default, what the phases changed in labels, RoI
        weights and losses, is not the point of the method.

        Args:
            outputs: None where no student runs, as in tools that look at labels alone.
        """
        return context.changes.get(self.name, 0.0)

    def compared_labels(
        self, pseudo: PseudoLabels, context: StepContext
    ) -> Dict[str, List[Tensor]]:
        """Other choices of labels whose quality is measured beside that of the selected ones, such
        as those before a filter.

        Args:
            pseudo: after all methods' `refine`.

        Returns:
            Name -> one bool (M,) an image.
        """
        return {}

    def present(self, context: StepContext) -> Optional[Tensor]:
        """Which classes the unlabelled images may contain, bool (N, K); None: it does not judge
        whole images.

        After `refine`; for methods that would learn labels which the main branch leaves out.
        """
        return None

    def inert_reason(self, period: InertPeriod) -> str:
        """The likely reason why the method changed nothing in `period`, and what to do: the end of
        a sentence.
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
        """Arrays to publish to the loader after this step, or None; the same on every rank.

        They take effect `SSOD.SNAPSHOT_DELAY` steps later. The arrays "repeat_factors_labeled" and
        "repeat_factors_unlabeled" (one float an image) change how often the sampler draws each
        image.
        """
        return None

    def build_hooks(self) -> List[HookBase]:
        """Hooks for the trainer.

        Detectron2 keeps the state of only one hook per class: keep state in the Method.
        """
        return []

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        """This method's part of the report about one run, from what the run has written; None for
        nothing.

        Charts and tables come from `ssod.plotting.charts` and `ssod.plotting.section`, numbers from
        `run.series(key)` of what the method has put into the event storage. No model is at hand,
        and the run may still be going on.
        """
        return None


def find_method(methods: Mapping[str, Method], kind: Type[MethodType]) -> Optional[MethodType]:
    """The method in use of this class, or of one derived from it; None if there is none.

    Example:
        >>> pim = find_method(context.methods, PIM)
    """
    return next((method for method in methods.values() if isinstance(method, kind)), None)
