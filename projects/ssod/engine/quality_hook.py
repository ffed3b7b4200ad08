"""Measures the teacher's labels during training, and keeps those of a sample for the report."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from ssod.data.mapper import TwoViewMapper, UnreadableImage, seeded_globals
from ssod.data.masks import RleMasks, as_json
from ssod.data.sampler import STREAMS
from ssod.data.truth import HiddenTruth, ImageTruth
from ssod.engine.teacher_student import TeacherStudent
from ssod.evaluation.pseudo_label_quality import (
    LabelCounts,
    assign_truth,
    count_labels,
    mask_ious,
    sum_counts,
    summarise,
)
from ssod.evaluation.pseudo_label_sizes import SizeCounts, iou_by_size, summarise_sizes
from ssod.structures import PseudoLabels, Sample, SampleRef, SSODBatch
from ssod.utils.atomic import write_atomically
from ssod.utils.step_files import StepFiles

FOLDER = "pseudo_quality"
# Prefix of the columns that mark `Method.compared_labels`.
_COMPARED = "compared/"
_CHUNK = 8  # images the teacher sees at once


def evenly_spaced(count: int, limit: int) -> List[int]:
    """At most `limit` different indices out of `range(count)`, ascending, including both ends."""
    return sorted({round(float(i)) for i in np.linspace(0, count - 1, min(count, limit))})


class PseudoLabelQuality(HookBase):
    """Compares the teacher's labels of a fixed sample of unlabelled images with the true labels.

    The teacher's input is the weak view without its random part: the image resized as for testing.
    Each method's `refine` selects as in training. "candidates" are all labels that the teacher
    found. "selected" are the labels that the main branch would train on. A method may add its own
    sets (`Method.compared_labels`). If no unlabelled set declares TRUTH, nothing is measured, and
    the file has the labels alone.

    The hook runs only on rank 0. It changes nothing that training reads: no state, no generator, no
    metric of the step.

    Args:
        records: the unlabelled images' records, without labels. class_names: classes of the
            training set.
        period: steps between measurements. 0: only at the end. mutual_from: the first step of
            mutual learning.
    """

    SAMPLE = 200
    GALLERY = 12

    def __init__(
        self,
        cfg: CfgNode,
        core: TeacherStudent,
        records: Sequence[Dict[str, Any]],
        class_names: Sequence[str],
        mutual_from: int,
    ) -> None:
        self.core = core
        self.class_names = list(class_names)
        self.period = cfg.TEST.EVAL_PERIOD
        self.mutual_from = mutual_from
        self.files = StepFiles(os.path.join(cfg.OUTPUT_DIR, FOLDER), ".json")
        self._mapper = TwoViewMapper.for_labelling(cfg)
        truth = HiddenTruth(cfg.DATASETS.UNLABELED, class_names, masks=cfg.MODEL.MASK_ON)
        self._truth_masks = truth.masks
        truth.check(records)
        chosen: Sequence[int] = truth.known_among(records) or range(len(records))
        rows = [dict(records[chosen[i]]) for i in evenly_spaced(len(chosen), self.SAMPLE)]
        self._sample: List[Tuple[Dict[str, Any], Optional[ImageTruth]]] = [
            (row, truth(row)) for row in rows
        ]
        self._shown = set(evenly_spaced(len(self._sample), self.GALLERY))

    def before_train(self) -> None:
        self.files.drop_after(self.trainer.start_iter)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        due = done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0)
        if due and done > self.mutual_from:
            self.measure(done)

    def measure(self, step: int) -> None:
        """Labels the sample, writes scalars and OUTPUT_DIR/pseudo_quality/step_<step>.json."""
        counts: Dict[str, List[LabelCounts]] = {}
        sizes: List[SizeCounts] = []
        images: List[Dict[str, Any]] = []
        ious: List[float] = []
        for start in range(0, len(self._sample), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(self._sample)))
            for index, sample, row in self._label(indices, step):
                row = row.to("cpu")
                prefix = len(_COMPARED)
                compared = [key[prefix:] for key in row.get_fields() if key.startswith(_COMPARED)]
                boxes = sample.geometry.boxes_to_original(row.gt_boxes.tensor)
                truth = self._sample[index][1]
                if truth is not None:
                    chosen = {"selected": row.selected, "candidates": row.scores >= 0}
                    chosen.update({name: row.get(_COMPARED + name) for name in compared})
                    for name, mask in chosen.items():
                        own = (boxes[mask], row.gt_classes[mask], row.scores[mask])
                        found = count_labels(*own, *truth, len(self.class_names))
                        counts.setdefault(name, []).append(found)
                    sizes.append(iou_by_size(boxes, row.gt_classes, row.scores, *truth))
                kept = row[row.selected]
                own = (boxes[row.selected], kept.gt_classes, kept.scores)
                masks, true_masks = None, None
                if kept.has("gt_masks") and (truth is not None or index in self._shown):
                    original = sample.geometry.masks_to_original(kept.gt_masks.tensor)
                    masks = RleMasks.encode(original).rles
                    true_masks = self._truth_masks(self._sample[index][0])
                if truth is not None and masks is not None and true_masks is not None:
                    ious += mask_ious(assign_truth(*own, *truth), masks, true_masks)
                image = _image(sample.file_name, own, truth)
                image["shown"] = index in self._shown
                if not image["boxes"] and len(row):
                    image["best"] = _best(boxes, row)
                if image["shown"] and masks is not None:
                    image["masks"] = [as_json(rle) for rle in masks]
                if image["shown"] and true_masks is not None and all(true_masks):
                    image["truth_masks"] = [as_json(rle) for rle in true_masks if rle]
                images.append(image)
        record: Dict[str, Any] = {"step": step, "classes": self.class_names, "images": images}
        if counts:
            record["sampled_images"] = len(counts["selected"])
            for name, own_counts in counts.items():
                total = sum_counts(own_counts, len(self.class_names))
                record[name] = summarise(total, self.class_names)
            record["compared"] = [name for name in counts if name not in ("selected", "candidates")]
            record["iou_by_size"] = summarise_sizes(sizes)
            if ious:
                record["selected"]["mask_iou"] = sum(ious) / len(ious)
            self._put_scalars(record)
        write_atomically(
            self.files.path(step), lambda file: file.write(json.dumps(record).encode())
        )

    def _label(self, indices: Sequence[int], step: int) -> List[Tuple[int, Sample, Instances]]:
        samples: List[Tuple[int, Sample]] = []
        for index in indices:
            try:
                ref = SampleRef(STREAMS[1], index, index)
                samples.append((index, self._mapper(self._sample[index][0], ref)))
            except UnreadableImage:  # the loader reports it when training draws it
                continue
        if not samples:
            return []
        batch = SSODBatch([], [sample for _, sample in samples])
        # `refine` may draw random numbers and write metrics. Neither may affect training.
        with seeded_globals(np.random.default_rng([step, indices[0]])), EventStorage(step):
            context = self.core.context(batch)
            pseudo: PseudoLabels = self.core.pseudo_labels(context)
            for method in self.core.method_list:
                for name, masks in method.compared_labels(pseudo, context).items():
                    pseudo = pseudo.with_columns([{_COMPARED + name: mask} for mask in masks])
        return [(i, sample, row) for (i, sample), row in zip(samples, pseudo.instances)]

    @staticmethod
    def _put_scalars(record: Dict[str, Any]) -> None:
        storage = get_event_storage()

        def put(name: str, value: float) -> None:
            storage.put_scalar(f"{FOLDER}/{name}", value, smoothing_hint=False)

        for name in ("precision", "recall", "mean_iou", "kl"):
            put(name, record["selected"][name])
            for labels in ("candidates", *record["compared"]):
                put(f"{labels}_{name}", record[labels][name])
        if "mask_iou" in record["selected"]:
            put("mask_iou", record["selected"]["mask_iou"])
        for label, row in record["selected"]["per_class"].items():
            for name in ("precision", "recall", "count", "truth"):
                put(f"{name}-{label}", row[name])


def _image(
    file_name: str, labels: Tuple[Any, Any, Any], truth: Optional[ImageTruth]
) -> Dict[str, Any]:
    """One image of the sample. Its boxes are in pixels of the file."""
    boxes, classes, scores = labels
    row: Dict[str, Any] = {
        "file_name": os.path.abspath(file_name),
        "boxes": [_rounded(box) for box in boxes.tolist()],
        "classes": classes.tolist(),
        "scores": [round(v, 3) for v in scores.tolist()],
    }
    if truth is not None:
        row["truth_boxes"], row["truth_classes"] = truth.boxes.tolist(), truth.classes.tolist()
    return row


def _best(boxes: Tensor, row: Instances) -> Dict[str, Any]:
    """The candidate with the highest score, for an image without a label."""
    index = int(row.scores.argmax())
    return {
        "box": _rounded(boxes[index].tolist()),
        "class": int(row.gt_classes[index]),
        "score": round(float(row.scores[index]), 3),
    }


def _rounded(box: Sequence[float]) -> List[float]:
    return [round(value, 1) for value in box]
