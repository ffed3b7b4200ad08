"""ACRST's CropBank as a plug-in: what is pasted, what learns from it, and how classes are rebalanced.

Shapes: K foreground classes, M labels of one image, P crops pasted into it, R sampled RoIs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.errors import UserError
from ssod.methods.acrst.bank import Instances as BankInstances
from ssod.methods.acrst.bank import PseudoBank, labeled_instances, pack_labels
from ssod.methods.acrst.crops import FileNames
from ssod.methods.acrst.paste import BANKS, PasteCrops, Pasted, PasteSettings, refuse
from ssod.methods.acrst.recall import class_sampling_probabilities, pseudo_recall
from ssod.methods.acrst.visibility import visible_fraction
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext, TrainingData
from ssod.modeling.outputs import Outputs, ViewOutputs
from ssod.pseudo_labels.quality import class_divergence
from ssod.structures import WEIGHT_COLUMNS, PseudoLabels, Sample, Views

if TYPE_CHECKING:
    from ssod.report.run_data import RunData
    from ssod.report.section import Section

REFRESH = ("on_visit", "sweep")
CLASS_SAMPLING = ("affr", "uniform", "instances")
# Counting RoIs waits for the device, so not every step does it. Console and files are written as often.
_SHARE_PERIOD = 20


@METHOD_REGISTRY.register()
class CropBank(Method):
    """Pastes objects of labelled and unlabelled images into strong views.

    FBR is `class_sampling` "instances" (every instance alike), AFFR "affr" (Eq. 9); "uniform" draws all classes alike.
    On unlabelled images labels that are hidden by what was pasted are removed. With selective supervision (Eq. 10) only
    pasted boxes regress there; without, none does (Eq. 5), or all do if `PseudoBoxRegression` is listed too.

    Args:
        banks: which banks are drawn from, of "labeled" and "pseudo".
        refresh: "on_visit": an image's entry is what the latest step that drew it was taught; "sweep": the teacher
            labels all unlabelled images every `refresh_period` steps.
        snapshot_period: steps between publications of an on-visit bank, and between entries of the statistics.
        beta: of AFFR. settings: of pasting.
        picture_period: steps between pictures of pasted images; 0: none.
    """

    needs_unlabeled = False

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
    ) -> None:
        super().__init__()
        _check(banks, refresh, refresh_period, snapshot_period, class_sampling, beta)
        self.num_classes = num_classes
        self.banks, self.refresh, self.refresh_period = banks, refresh, refresh_period
        self.snapshot_period = snapshot_period
        self.class_sampling, self.beta = class_sampling, beta
        self.selective_supervision = selective_supervision
        self.settings, self.picture_period = settings, picture_period
        self.class_names: List[str] = []
        self._num_labeled = 0
        self._truth = np.zeros(num_classes, dtype=np.int64)
        self._labeled = BankInstances.empty(num_classes)
        self.pseudo_bank = PseudoBank(0, num_classes)
        self._first_probabilities = np.zeros(num_classes)
        self._file_names: Dict[str, FileNames] = {}
        self._fresh = False  # whether a sweep waits for its publication
        # Of the last step that pictures are due at: samples and the labels they are trained towards.
        self.picture: Optional[Tuple[List[Sample], List[Instances]]] = None

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.CROP_BANK = CfgNode()
        node = cfg.SSOD.CROP_BANK
        node.BANKS = ("labeled", "pseudo")
        # "on_visit": an unlabelled image's entry is renewed whenever training draws it; "sweep": the teacher labels the
        # whole unlabelled set every REFRESH_PERIOD steps.
        node.REFRESH = "on_visit"
        node.REFRESH_PERIOD = 5000
        # Steps between publications to the loader (on_visit) and between entries of the statistics.
        node.SNAPSHOT_PERIOD = 100
        # Crops pasted into each view; scaled and flipped.
        node.MIN_INSTANCES = 1
        node.MAX_INSTANCES = 5
        node.SCALE = (0.5, 1.5)
        node.FLIP_PROB = 0.5
        node.COLOR_JITTER = True
        # "affr" (Eq. 9), "uniform" over classes, or "instances": uniform over the bank's instances (FBR alone).
        node.CLASS_SAMPLING = "affr"
        node.BETA = 2.0
        # Labels of which no more than this share is left to see are removed.
        node.MIN_VISIBLE_FRACTION = 0.0
        # Whose strong views are pasted into: "unlabeled", "labeled" or both.
        node.PASTE_ON = ("unlabeled",)
        # On unlabelled images only pasted boxes regress (Eq. 10). False: none does (Eq. 5), or all do if
        # PseudoBoxRegression is listed too.
        node.SELECTIVE_SUPERVISION = True

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
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "banks": tuple(node.BANKS),
            "refresh": node.REFRESH,
            "refresh_period": node.REFRESH_PERIOD,
            "snapshot_period": node.SNAPSHOT_PERIOD,
            "class_sampling": node.CLASS_SAMPLING,
            "beta": node.BETA,
            "selective_supervision": node.SELECTIVE_SUPERVISION,
            "settings": settings,
            "picture_period": cfg.SSOD.VIS_PERIOD,
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.CROP_BANK
        for key in ("REFRESH_PERIOD", "SNAPSHOT_PERIOD"):
            node[key] = max(1, round(node[key] / factor))

    def setup(self, data: TrainingData) -> None:
        if not data.unlabeled and "labeled" not in self.settings.paste_on:
            raise UserError(
                "SSOD.CROP_BANK.PASTE_ON names only unlabelled images, and this run has none: add 'labeled' to it."
            )
        self.class_names = list(data.class_names)
        self._num_labeled = len(data.labeled)
        found = labeled_instances(data.labeled, self.num_classes)
        self._truth = found.counts
        self._labeled = found if "labeled" in self.banks else BankInstances.empty(self.num_classes)
        self.pseudo_bank = PseudoBank(len(data.unlabeled), self.num_classes)
        # Kept, because a run that resumes before the first snapshot has visited images by then.
        self._first_probabilities = self.probabilities().numpy()
        self._file_names = {
            "labeled": FileNames([record["file_name"] for record in data.labeled]),
            "unlabeled": FileNames([record["file_name"] for record in data.unlabeled]),
        }

    # ---------------------------------------------------------------- the bank and its classes

    def recall(self) -> Tensor:
        """(K,) pseudo recall; the images expected to hold pseudo-labels are those visited so far."""
        visited = self.pseudo_bank.visited
        truth = torch.from_numpy(self._truth)
        if not visited:  # nothing is known, so all classes are alike
            return torch.where(truth > 0, 0.0, torch.nan).double()
        counts = torch.from_numpy(self.pseudo_bank.class_counts)
        return pseudo_recall(counts, truth, visited / max(1, self._num_labeled))

    def sizes(self) -> np.ndarray:
        """int64 (K,) instances in the banks in use."""
        pseudo = self.pseudo_bank.class_counts if "pseudo" in self.banks else 0
        return self._labeled.counts + pseudo

    def probabilities(self) -> Tensor:
        """float64 (K,) of the classes, 0 where there is nothing to draw; their sum is 1, or 0 if both banks are empty."""
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
        """Renews the bank after a sweep; `packed` holds labels of all ranks' images, the same on every rank."""
        self.pseudo_bank.replace(packed)
        self._fresh = True

    # ---------------------------------------------------------------- the step

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        unlabeled = views.unlabeled
        if unlabeled is None or unlabeled.pseudo is None:
            return views
        # Without selective supervision pasted boxes regress where the teacher's own do.
        hosts = {"PseudoBoxRegression", "SoftTeacher", "PseCo"}
        regress = self.selective_supervision or not hosts.isdisjoint(context.methods)
        rows = [
            self._merge(row, sample.extras.get("CropBank"), float(regress))
            for row, sample in zip(unlabeled.pseudo.instances, context.batch.unlabeled)
        ]
        return replace(views, unlabeled=replace(unlabeled, pseudo=PseudoLabels(rows)))

    def _merge(self, own: Instances, pasted: Optional[Pasted], regress: float) -> Instances:
        """An image's labels with the pasted ones, and without those that these hide."""
        fields = own.get_fields()
        if self.selective_supervision:
            fields = {**fields, **dict.fromkeys(_REGRESSION, torch.zeros_like(own.scores))}
        if pasted is None:
            return Instances(own.image_size, **fields)
        boxes = own.gt_boxes.tensor
        above = pasted.boxes.to(boxes)
        seen = visible_fraction(boxes, above) > self.settings.min_visible_fraction
        rows = seen.nonzero()[
            :, 0
        ]  # once: on a GPU each look-up by a mask would wait for the device
        ones = own.scores.new_ones(len(above))
        known: Dict[str, Any] = {
            "gt_boxes": above,
            "gt_classes": pasted.classes.to(own.gt_classes),
            "scores": pasted.scores.to(own.scores),
            "selected": ones.bool(),
            **dict.fromkeys(WEIGHT_COLUMNS, ones),
            **dict.fromkeys(_REGRESSION, regress * ones),
        }
        merged = Instances(own.image_size)
        for name, values in fields.items():
            if isinstance(values, Boxes):
                values = values.tensor
            # What other methods know of the teacher's labels, nobody knows of pasted ones.
            more = known.get(name)
            if more is None:
                more = values.new_zeros((len(above), *values.shape[1:]))
            joined = torch.cat([values[rows], more])
            merged.set(name, Boxes(joined) if name == "gt_boxes" else joined)
        return merged

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        done = context.step + 1
        if pseudo is not None and self.refresh == "on_visit":
            packed = pack_batch(pseudo, context.batch.unlabeled)
            for part in comm.all_gather(packed):
                self.pseudo_bank.replace(part)
        if done % _SHARE_PERIOD == 0:
            self._put_foreground_share(outputs, context)
        if self.picture_period and done % self.picture_period == 0 and comm.is_main_process():
            shown, samples = outputs.unlabeled, context.batch.unlabeled
            if shown is None or "unlabeled" not in self.settings.paste_on:
                shown, samples = outputs.labeled, context.batch.labeled
            self.picture = (samples, [t.to("cpu") for t in shown.view.targets[: len(samples)]])

    def _put_foreground_share(self, outputs: Outputs, context: StepContext) -> None:
        """Fig. 5a: RoIs that are foreground, and those of them whose object was there before pasting."""
        streams = {
            "labeled": (outputs.labeled, context.batch.labeled),
            "unlabeled": (outputs.unlabeled, context.batch.unlabeled),
        }
        storage = get_event_storage()
        for name, (found, samples) in streams.items():
            if found is None or not samples or name not in self.settings.paste_on:
                continue
            total, foreground, own = _count_rois(found, samples, self.num_classes)
            prefix = "crop_bank/foreground_share"
            storage.put_scalar(f"{prefix}/{name}", foreground / max(1, total))
            storage.put_scalar(f"{prefix}_without_pasted/{name}", own / max(1, total))

    def put_statistics(self) -> None:
        """Pseudo recall, sampling probability and bank size of each class, and the classes' divergence."""
        storage = get_event_storage()
        columns = {
            "pseudo_recall": self.recall().tolist(),
            "mu": self.probabilities().tolist(),
            "size": self.sizes().tolist(),
        }
        if not self.pseudo_bank.visited:
            del columns["pseudo_recall"]
        for what, values in columns.items():
            for name, value in zip(self.class_names, values):
                storage.put_scalar(f"crop_bank/{what}/{name}", value, smoothing_hint=False)
        storage.put_scalar("crop_bank/images_visited", self.pseudo_bank.visited)
        counts = torch.from_numpy(self.pseudo_bank.class_counts)
        # The quality measure is KL(truth || labels); Fig. 5b plots the other direction.
        divergence = class_divergence(torch.from_numpy(self._truth), counts)
        if np.isfinite(divergence):
            storage.put_scalar("crop_bank/kl_pseudo_truth", divergence, smoothing_hint=False)

    # ---------------------------------------------------------------- state, hooks, report

    def get_extra_state(self) -> Tensor:
        """float64 (rows, 7): the pseudo bank, see `PseudoBank.state`."""
        return torch.from_numpy(self.pseudo_bank.state())

    def set_extra_state(self, state: Tensor) -> None:
        packed = state.cpu().numpy()
        if len(packed) and packed[:, 0].max() >= self.pseudo_bank.num_images:
            raise UserError(
                f"The checkpoint's CropBank knows unlabelled image {int(packed[:, 0].max())} and the config names only "
                f"{self.pseudo_bank.num_images}: resume with the same datasets."
            )
        self.pseudo_bank.load(packed)

    def build_hooks(self) -> List[HookBase]:
        from ssod.methods.acrst.hooks import CropBankDiagnostics, SweepUnlabeled

        hooks: List[HookBase] = []
        if self.refresh == "sweep":
            hooks.append(SweepUnlabeled(self))
        if comm.is_main_process():
            hooks.append(CropBankDiagnostics(self))
        return hooks

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.acrst.report import crop_bank_section

        return crop_bank_section(run)


_REGRESSION = tuple(column for column in WEIGHT_COLUMNS if column.endswith("reg_weight"))


def pack_batch(pseudo: PseudoLabels, samples: List[Sample]) -> np.ndarray:
    """The selected labels of a batch in original-image coordinates, packed; one transfer from the device."""
    columns = ("scores", "gt_classes", "selected")
    flat = torch.cat(
        [
            torch.cat(
                [r.gt_boxes.tensor, *(r.get(name)[:, None].float() for name in columns)], dim=1
            )
            for r in pseudo.instances
        ]
    ).cpu()
    parts = []
    for sample, own in zip(samples, flat.split([len(row) for row in pseudo.instances])):
        boxes = sample.geometry.boxes_to_original(own[:, :4])
        # Nothing is left to crop of what clipping to the image made empty.
        keep = ((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (own[:, 6] > 0)).numpy()
        values = own.numpy()[keep]
        packed = boxes.numpy()[keep], values[:, 5], values[:, 4]
        parts.append(pack_labels(sample.ref.index, sample.geometry.original_size, *packed))
    return np.concatenate(parts)


def _count_rois(
    found: ViewOutputs, samples: List[Sample], num_classes: int
) -> Tuple[int, int, int]:
    """RoIs of the strong views, foreground ones, and those of them that match no pasted box."""
    total, counts = 0, []
    for roi, sample in zip(found.rois, samples):
        total += len(roi)
        foreground = roi.gt_classes < num_classes
        own = foreground
        pasted = sample.extras.get("CropBank")
        if pasted is not None:
            boxes = roi.gt_boxes.tensor
            same = (boxes[:, None] == pasted.boxes.to(boxes)[None]).all(dim=2).any(dim=1)
            own = foreground & ~same
        counts.append(torch.stack([foreground.sum(), own.sum()]))
    both = torch.stack(counts).sum(dim=0).tolist()
    return total, both[0], both[1]


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
