"""Measures on validation images how well the image-level head tells which classes an image
contains.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.data.classes import dataset_classes
from ssod.data.mapper import TwoViewMapper, UnreadableImage
from ssod.data.records import trained_classes
from ssod.data.sampler import STREAMS
from ssod.detectors.features import extract_features
from ssod.methods.acrst.two_stage.calibration import (
    calibration_error,
    focal_posterior,
    roc_auc,
)
from ssod.structures import SampleRef

if TYPE_CHECKING:
    from ssod.methods.acrst.two_stage.method import TwoStageFilter

logger = logging.getLogger(__name__)

PREFIX = "two_stage_filter/head"
_SAMPLE = 500
_CHUNK = 8  # images the teacher sees at once
# Of the mean AUC. On digit scenes the heads reach 0.48 to 0.56, and the filter costs AP
# (docs/acrst.md).
_NEAR_CHANCE = 0.6


class HeadQuality(HookBase):
    """At every evaluation, compares the teacher's activations on at most 500 validation images with
    these images' classes.

    Metrics per class are `auc` (0.5: the head knows nothing), `calibration_error` of the posterior
    that belongs to the activation, `active` (share of the images in which the filter would let the
    class pass) and `present` (share of the images that contain the class). Without DATASETS.VAL
    nothing is measured.

    The hook warns once if the filter removes every label of a class, because a head that cannot
    tell images apart does this, or if the mean AUC is near chance once the filter is at work. It
    runs on rank 0 and changes nothing that training reads.
    """

    trainer: Any

    def __init__(self, method: "TwoStageFilter") -> None:
        self.method = method
        self._images: List[Tuple[Dict[str, Any], List[int]]] = []
        self._auc = float("nan")  # mean over the classes, at the last measurement
        self._warned = False

    def before_train(self) -> None:
        cfg = self.trainer.cfg
        self._mapper = TwoViewMapper.for_labelling(cfg)
        classes = {name: index for index, name in enumerate(self.method.class_names)}
        found = []
        for name in cfg.DATASETS.VAL:
            own = dataset_classes(name) or self.method.class_names
            for record in DatasetCatalog.get(name):
                labels = [classes[own[k]] for k in trained_classes(record) if own[k] in classes]
                plain = {key: value for key, value in record.items() if key != "annotations"}
                found.append((plain, labels))
        chosen = np.linspace(0, len(found) - 1, min(len(found), _SAMPLE)).round().astype(int)
        self._images = [found[index] for index in sorted(set(chosen.tolist()))]

    def after_step(self) -> None:
        done, period = self.trainer.iter + 1, self.trainer.cfg.TEST.EVAL_PERIOD
        due = done == self.trainer.max_iter or (period > 0 and done % period == 0)
        if due and self._images:
            self._put(*self._activations())
        if due and not self._warned:
            names = self.method.removed_classes()
            if names:
                self._warn_of_classes(done, names)
            elif self._auc < _NEAR_CHANCE and self._filters():
                self._warn_of_head(done)

    def _filters(self) -> bool:
        """Whether warm-up is over."""
        head = self.trainer.core.student.ssod_heads[self.method.name]
        return int(head.labeled_steps) >= self.method.warmup

    def _warn_of_head(self, done: int) -> None:
        self._warned = True
        logger.warning(
            f"step {done}: TwoStageFilter's image-level head hardly tells which classes an image shows: its mean AUC on validation "
            f"images is {self._auc:.2f} (0.5: it knows nothing). The loss of such a head can cost AP: list ScoreThreshold in "
            "the filter's place, or lower SSOD.TWO_STAGE_FILTER.LOSS_WEIGHT."
        )

    def _warn_of_classes(self, done: int, names: List[str]) -> None:
        self._warned = True
        known = f" Its mean AUC on validation images is {self._auc:.2f} (0.5: it knows nothing)."
        logger.warning(
            f"step {done}: TwoStageFilter removes all labels of {len(names)} of {self.method.num_classes} classes "
            f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): its image-level head calls them absent from every "
            f"image.{known if self._auc == self._auc else ''} Train it longer (SSOD.BURN_IN_STEPS), lower "
            "SSOD.TWO_STAGE_FILTER.IMAGE_THRESHOLD, or list ScoreThreshold in its place."
        )

    @torch.no_grad()
    def _activations(self) -> Tuple[Tensor, Tensor]:
        """(N, K) activations and (N, K) bool presence of the images that can be read, on the
        CPU.
        """
        teacher = self.trainer.core.teacher
        activations, present = [], []
        for start in range(0, len(self._images), _CHUNK):
            images, rows = [], []
            for index in range(start, min(start + _CHUNK, len(self._images))):
                record, labels = self._images[index]
                try:
                    sample = self._mapper(record, SampleRef(STREAMS[1], index, index))
                except UnreadableImage:  # the evaluation reports it
                    continue
                images.append(sample.weak.to(teacher.device))
                rows.append(torch.zeros(self.method.num_classes, dtype=torch.bool))
                rows[-1][labels] = True
            if images:
                maps = extract_features(teacher, images)
                activations.append(teacher.ssod_heads[self.method.name](maps).sigmoid().cpu())
                present.append(torch.stack(rows))
        empty = torch.zeros(0, self.method.num_classes)
        return torch.cat([empty, *activations]), torch.cat([empty.bool(), *present])

    def _put(self, activations: Tensor, present: Tensor) -> None:
        method, storage = self.method, get_event_storage()
        posteriors = focal_posterior(activations, method.focal_gamma, method.focal_alpha)
        columns = {
            "auc": roc_auc(activations, present),
            "calibration_error": calibration_error(posteriors, present),
            "active": (activations >= method.image_threshold).double().mean(dim=0),
            "present": present.double().mean(dim=0),
        }
        for what, values in columns.items():
            known = values[values.isfinite()]
            if len(known):
                mean = float(known.mean())
                self._auc = mean if what == "auc" else self._auc
                storage.put_scalar(f"{PREFIX}_{what}", mean, smoothing_hint=False)
            for name, value in zip(method.class_names, values.tolist()):
                if np.isfinite(value):
                    storage.put_scalar(f"{PREFIX}_{what}/{name}", value, smoothing_hint=False)
