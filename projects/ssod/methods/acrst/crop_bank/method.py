"""ACRST's CropBank as a plug-in: it pastes crops, sets their losses and rebalances classes.

Shapes: K foreground classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor

from ssod.config import class_number
from ssod.data.packed import column_of
from ssod.detectors.base import Capability, Need
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.acrst.crop_bank.bank import Instances as BankInstances
from ssod.methods.acrst.crop_bank.bank import PseudoBank, labeled_instances, pack_batch
from ssod.methods.acrst.crop_bank.merging import with_pasted
from ssod.methods.acrst.crop_bank.paste import BANKS, PasteCrops, PasteSettings, refuse
from ssod.methods.acrst.crop_bank.recall import class_sampling_probabilities, pseudo_recall
from ssod.methods.acrst.crop_bank.statistics import put_bank_statistics, put_foreground_share
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)
from ssod.methods.pseudo_box_regression import PseudoBoxRegression
from ssod.structures import PseudoLabels, Sample, Views

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

REFRESH = ("on_visit", "sweep")
CLASS_SAMPLING = ("affr", "uniform", "instances")
# Counting RoIs waits for the device, so it is not done in every step. Console and files are written
# with the same period.
_SHARE_PERIOD = 20


@METHOD_REGISTRY.register()
class CropBank(Method):
    """Pastes objects of labelled and unlabelled images into strong views.

    FBR is `class_sampling` "instances" (every instance has the same probability). AFFR is "affr"
    (Eq. 9). "uniform" gives all classes the same probability. On unlabelled images, labels that a
    pasted crop hides are removed. With selective supervision (Eq. 10) only pasted boxes are
    regressed on unlabelled images. Without it no box is regressed there (Eq. 5), or every box if
    `PseudoBoxRegression` is listed too.

    Args:
        banks: the banks to draw from: "labeled", "pseudo" or both.
        refresh: "on_visit": an image's entry has the labels of the latest step that drew the image.
            "sweep": the teacher labels all unlabelled images every `refresh_period` steps.
        snapshot_period: steps between publications of an on-visit bank, and between entries of the
            statistics.
        beta: the exponent of AFFR. settings: how crops are pasted.
        picture_period: steps between pictures of pasted images. 0: no pictures.
        masks: objects are cut out and pasted by their masks, not as rectangles.
    """

    needs: Tuple[Need, ...] = ()
    needs_hint = "set SSOD.CROP_BANK.SELECTIVE_SUPERVISION to False"
    config_key = "CROP_BANK"
    excludes = ("mixed-in images",)
    needs_unlabeled = False
    activity_unit = "objects pasted, per image"

    def __init__(
        self,
        *,
        num_classes: int,
        banks: Tuple[str, ...],
        refresh: str,
        refresh_period: int,
        snapshot_period: int,
        class_sampling: str,
        beta: float,
        selective_supervision: bool,
        settings: PasteSettings,
        picture_period: int,
        masks: bool = False,
    ) -> None:
        super().__init__()
        _check(banks, refresh, refresh_period, snapshot_period, class_sampling, beta)
        self.num_classes = num_classes
        self.banks, self.refresh, self.refresh_period = banks, refresh, refresh_period
        self.snapshot_period = snapshot_period
        self.class_sampling, self.beta = class_sampling, beta
        self.only_own_boxes_regress = selective_supervision
        if selective_supervision:
            self.needs = (Capability.WEIGHTS,)
        self.settings, self.picture_period, self.masks = settings, picture_period, masks
        self.class_names: List[str] = []
        self._num_labeled = 0
        self._truth = np.zeros(num_classes, dtype=np.int64)
        self._labeled = BankInstances.empty(num_classes)
        self.pseudo_bank = PseudoBank(0, num_classes, masks=masks)
        self._first_probabilities = np.zeros(num_classes)
        self._file_names: Dict[str, Sequence[str]] = {}
        self._fresh = False  # True while a sweep waits to be published
        # Samples and their training labels from the last step at which pictures were due.
        self._picture: Optional[Tuple[List[Sample], List[Instances]]] = None

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.CROP_BANK = CfgNode()
        node = cfg.SSOD.CROP_BANK
        node.BANKS = ("labeled", "pseudo")
        # "on_visit": an unlabelled image's entry is renewed whenever training draws the image.
        # "sweep": the teacher labels the whole unlabelled set every REFRESH_PERIOD steps.
        node.REFRESH = "on_visit"
        node.REFRESH_PERIOD = 5000
        # Steps between publications to the loader (on_visit) and between entries of the statistics.
        node.SNAPSHOT_PERIOD = 100
        # The number of crops pasted into each view, and how they are scaled and flipped.
        node.MIN_INSTANCES = 1
        node.MAX_INSTANCES = 5
        node.SCALE = (0.5, 1.5)
        node.FLIP_PROB = 0.5
        node.COLOR_JITTER = True
        # "affr" (Eq. 9), "uniform" over classes, or "instances": uniform over the bank's instances
        # (FBR alone).
        node.CLASS_SAMPLING = "affr"
        node.BETA = 2.0
        # Labels are removed if their visible share is not larger than this.
        node.MIN_VISIBLE_FRACTION = 0.0
        # The streams whose strong views get crops: "unlabeled", "labeled" or both.
        node.PASTE_ON = ("unlabeled",)
        # True: on unlabelled images only pasted boxes are regressed (Eq. 10). False: no box is (Eq.
        # 5), or all boxes are if PseudoBoxRegression is listed too.
        node.SELECTIVE_SUPERVISION = True

    @classmethod
    def config_warnings(cls, cfg: CfgNode) -> List[str]:
        idle = PseudoBoxRegression.__name__
        if idle not in cfg.SSOD.METHODS or not cfg.SSOD.CROP_BANK.SELECTIVE_SUPERVISION:
            return []
        return [
            f"{idle} changes nothing, because only pasted boxes regress with SSOD.CROP_BANK.SELECTIVE_SUPERVISION True: set "
            f"that to False, or take {idle} out of SSOD.METHODS."
        ]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.CROP_BANK
        settings = PasteSettings(
            paste_on=tuple(node.PASTE_ON),
            min_instances=node.MIN_INSTANCES,
            max_instances=node.MAX_INSTANCES,
            scale=tuple(node.SCALE),
            flip_prob=node.FLIP_PROB,
            color_jitter=node.COLOR_JITTER,
            min_visible_fraction=node.MIN_VISIBLE_FRACTION,
            image_format=cfg.INPUT.FORMAT,
        )
        return {
            "num_classes": class_number(cfg)[1],
            "banks": tuple(node.BANKS),
            "refresh": node.REFRESH,
            "refresh_period": node.REFRESH_PERIOD,
            "snapshot_period": node.SNAPSHOT_PERIOD,
            "class_sampling": node.CLASS_SAMPLING,
            "beta": node.BETA,
            "selective_supervision": node.SELECTIVE_SUPERVISION,
            "settings": settings,
            "picture_period": cfg.SSOD.VIS_PERIOD,
            "masks": cfg.MODEL.MASK_ON,
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.CROP_BANK
        for key in ("REFRESH_PERIOD", "SNAPSHOT_PERIOD"):
            node[key] = max(1, round(node[key] / factor))

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.SSOD.CROP_BANK.SNAPSHOT_PERIOD = 1

    def setup(self, data: TrainingData) -> None:
        if not data.unlabeled and "labeled" not in self.settings.paste_on:
            raise UserError(
                "SSOD.CROP_BANK.PASTE_ON names only unlabelled images, and this run has none: add 'labeled' to it."
            )
        self.class_names = list(data.class_names)
        self._num_labeled = len(data.labeled)
        found = labeled_instances(data.labeled, self.num_classes, masks=self.masks)
        self._truth = found.counts
        self._labeled = found if "labeled" in self.banks else BankInstances.empty(self.num_classes)
        self.pseudo_bank = PseudoBank(len(data.unlabeled), self.num_classes, masks=self.masks)
        # The probabilities are kept, because a run that resumes before the first snapshot has
        # already visited images.
        self._first_probabilities = self.probabilities().numpy()
        self._file_names = {
            "labeled": column_of(data.labeled, "file_name"),
            "unlabeled": column_of(data.unlabeled, "file_name"),
        }

    # ---------------------------------------------------------------- the bank and its classes

    def recall(self) -> Tensor:
        """(K,) pseudo recall. Only the images visited so far are expected to hold pseudo-labels."""
        visited = self.pseudo_bank.visited
        truth = self.truth_counts()
        if not visited:  # there is no pseudo-label yet, so all classes are treated alike
            return torch.where(truth > 0, 0.0, torch.nan).double()
        counts = torch.from_numpy(self.pseudo_bank.class_counts)
        return pseudo_recall(counts, truth, visited / max(1, self._num_labeled))

    def truth_counts(self) -> Tensor:
        """int64 (K,) objects of the labelled images."""
        return torch.from_numpy(self._truth)

    def sizes(self) -> np.ndarray:
        """int64 (K,) instances in the banks in use."""
        pseudo = self.pseudo_bank.class_counts if "pseudo" in self.banks else 0
        return self._labeled.counts + pseudo

    def probabilities(self) -> Tensor:
        """float64 (K,) probability of drawing each class, 0 if the class has no crop. The sum is 1,
        or 0 if both banks are empty.
        """
        sizes = torch.from_numpy(self.sizes())
        if self.class_sampling == "affr":
            return class_sampling_probabilities(self.recall(), self.beta, sizes > 0)
        weights = sizes.double() if self.class_sampling == "instances" else (sizes > 0).double()
        return weights / weights.sum().clamp(min=1)

    def view_transform(self) -> Callable:
        return PasteCrops(
            self.settings,
            labeled=self._labeled,
            probabilities=self._first_probabilities,
            file_names=self._file_names,
        )

    def snapshot(self, step: int) -> Optional[Dict[str, np.ndarray]]:
        due = self._fresh if self.refresh == "sweep" else step % self.snapshot_period == 0
        if not due or not self.pseudo_bank.visited:
            return None
        self._fresh = False
        if "pseudo" in self.banks:
            arrays = self.pseudo_bank.instances().arrays()
        else:
            arrays = BankInstances.empty(self.num_classes).arrays()
        return {**arrays, "probabilities": self.probabilities().numpy()}

    def replace_all(self, packed: np.ndarray) -> None:
        """Renews the bank after a sweep. `packed` holds the labels of all ranks' images and is the
        same on every rank.
        """
        self.pseudo_bank.replace(packed)
        self._fresh = True

    # ---------------------------------------------------------------- the step

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        unlabeled = views.unlabeled
        if unlabeled is None or unlabeled.pseudo is None:
            return views
        # Without selective supervision, pasted boxes are regressed if the teacher's own boxes are.
        regress = self.only_own_boxes_regress or any(
            METHOD_REGISTRY.get(name).regresses_pseudo_boxes for name in context.methods
        )
        rows = [
            with_pasted(
                row,
                sample.extras.get(self.name),
                min_visible_fraction=self.settings.min_visible_fraction,
                regress_own=not self.only_own_boxes_regress,
                regress_pasted=regress,
            )
            for row, sample in zip(unlabeled.pseudo.instances, context.batch.unlabeled)
        ]
        return replace(views, unlabeled=replace(unlabeled, pseudo=PseudoLabels(rows)))

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        done = context.step + 1
        if pseudo is not None and self.refresh == "on_visit":
            packed = pack_batch(pseudo, context.batch.unlabeled)
            for part in comm.all_gather(packed):
                self.pseudo_bank.replace(part)
        if done % _SHARE_PERIOD == 0:
            put_foreground_share(outputs, context.batch, self.num_classes)
        if self.picture_period and done % self.picture_period == 0 and comm.is_main_process():
            shown, samples = outputs.unlabeled, context.batch.unlabeled
            if shown is None or "unlabeled" not in self.settings.paste_on:
                shown, samples = outputs.labeled, context.batch.labeled
            self._picture = (samples, [t.to("cpu") for t in shown.view.targets[: len(samples)]])

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        samples = [*context.batch.labeled, *context.batch.unlabeled]
        pasted = [sample.extras.get(self.name) for sample in samples]
        return sum(len(one.boxes) for one in pasted if one is not None) / max(len(samples), 1)

    def inert_reason(self, period: InertPeriod) -> str:
        if not self.sizes().sum():
            return (
                f"its banks ({', '.join(self.banks)}) hold no object; name 'labeled' in SSOD.CROP_BANK.BANKS, or train longer "
                "before mutual learning (SSOD.BURN_IN_STEPS)"
            )
        return (
            f"no object was pasted on {', '.join(self.settings.paste_on)} images though the banks hold "
            f"{int(self.sizes().sum())}; raise SSOD.CROP_BANK.MAX_INSTANCES or check SSOD.CROP_BANK.PASTE_ON"
        )

    # ---------------------------------------------------------------- state, hooks, report

    def get_extra_state(self) -> Tensor:
        """The pseudo bank as float64 (rows, 7), with more columns if there are masks. See
        `PseudoBank.state`.
        """
        return torch.from_numpy(self.pseudo_bank.state())

    def set_extra_state(self, state: Tensor) -> None:
        packed = state.cpu().numpy()
        if packed.shape[1] != self.pseudo_bank.columns:
            raise UserError(
                f"The checkpoint's CropBank was filled with MODEL.MASK_ON {not self.masks}: resume with the same value."
            )
        if len(packed) and packed[:, 0].max() >= self.pseudo_bank.num_images:
            raise UserError(
                f"The checkpoint's CropBank knows unlabelled image {int(packed[:, 0].max())} and the config names only "
                f"{self.pseudo_bank.num_images}: resume with the same datasets."
            )
        self.pseudo_bank.load(packed)

    def build_hooks(self) -> List[HookBase]:
        from ssod.methods.acrst.crop_bank.hooks import CropBankDiagnostics, SweepUnlabeled

        hooks: List[HookBase] = []
        if self.refresh == "sweep":
            hooks.append(SweepUnlabeled(self.replace_all, self.refresh_period))
        if comm.is_main_process():
            hooks.append(
                CropBankDiagnostics(
                    self.put_statistics,
                    self.snapshot_period,
                    self.take_picture,
                    self.class_names,
                    self.settings.image_format,
                )
            )
        return hooks

    def put_statistics(self) -> None:
        """Writes the bank's class statistics to the event storage."""
        bank = self.pseudo_bank
        put_bank_statistics(
            self.class_names,
            recall=self.recall() if bank.visited else None,
            probabilities=self.probabilities(),
            sizes=self.sizes(),
            visited=bank.visited,
            truth_counts=self.truth_counts(),
            pseudo_counts=bank.class_counts,
        )

    def take_picture(self) -> Optional[Tuple[List[Sample], List[Instances]]]:
        """The samples that are due to be drawn, and their labels. Later calls return None until the
        next are due.
        """
        picture, self._picture = self._picture, None
        return picture

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.acrst.crop_bank.report import crop_bank_section

        return crop_bank_section(run)


def _check(
    banks: Tuple[str, ...],
    refresh: str,
    refresh_period: int,
    snapshot_period: int,
    class_sampling: str,
    beta: float,
) -> None:
    if not banks or set(banks) - set(BANKS):
        refuse("BANKS", banks, "name 'labeled', 'pseudo' or both")
    if refresh not in REFRESH:
        refuse("REFRESH", refresh, "use 'on_visit' or 'sweep'")
    for key, period in (("REFRESH_PERIOD", refresh_period), ("SNAPSHOT_PERIOD", snapshot_period)):
        if period < 1:
            refuse(key, period, "use a number of steps, at least 1")
    if class_sampling not in CLASS_SAMPLING:
        refuse("CLASS_SAMPLING", class_sampling, "use 'affr', 'uniform' or 'instances'")
    if beta < 0:
        refuse("BETA", beta, "use 0 or more")
