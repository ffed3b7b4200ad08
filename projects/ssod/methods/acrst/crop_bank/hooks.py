"""The CropBank's hooks around the steps: sweeps of the unlabelled set, statistics, pictures."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch.utils.data import DataLoader, Dataset

from ssod.data.mapper import TwoViewMapper, UnreadableImage, seeded_globals
from ssod.data.sampler import STREAMS
from ssod.methods.acrst.crop_bank.bank import pack_batch
from ssod.structures import Sample, SampleRef, SSODBatch
from ssod.utils.atomic import write_atomically
from ssod.utils.draw import draw_boxes
from ssod.utils.progress import progress

logger = logging.getLogger(__name__)

FOLDER = "crop_bank"
_CHUNK = 8  # images the teacher sees at once
_PICTURES = 8
_ENLARGED = 400  # small pictures are enlarged to this longest side, in pixels

# Samples, and the training labels of each.
Picture = Tuple[List[Sample], List[Instances]]


class _Images(Dataset):
    """Records as samples, resized as for testing the teacher, or the name of a file that cannot be
    read.
    """

    def __init__(self, records: Sequence[Any], indices: Sequence[int], mapper: TwoViewMapper):
        self.records, self.indices, self.mapper = records, indices, mapper

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> Any:
        index = self.indices[row]
        try:
            return self.mapper(self.records[index], SampleRef(STREAMS[1], index, index))
        except UnreadableImage as error:
            return error.file_name


def _as_list(items: List[Any]) -> List[Any]:
    return items


class SweepUnlabeled(HookBase):
    """Lets the teacher label all unlabelled images every `period` steps. Each rank labels its
    share.

    Images are resized as for testing, without the random part of the weak view.

    Args:
        renew: called with the packed labels of all ranks' images, see `pack_batch`. period: steps
            between sweeps.
    """

    def __init__(self, renew: Callable[[np.ndarray], None], period: int) -> None:
        self.renew, self.period = renew, period

    def before_step(self) -> None:
        mutual = self.trainer.iter - self.trainer.mutual_from
        if mutual >= 0 and mutual % self.period == 0:
            self._sweep()

    def _sweep(self) -> None:
        cfg, core, records = self.trainer.cfg, self.trainer.core, self.trainer.data.unlabeled
        mapper = TwoViewMapper.for_labelling(cfg)
        mine = range(comm.get_rank(), len(records), comm.get_world_size())
        loader: Any = DataLoader(
            _Images(records, mine, mapper),
            batch_size=_CHUNK,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=_as_list,
            generator=torch.Generator().manual_seed(0),
        )
        parts: List[np.ndarray] = []
        unreadable = 0
        for chunk in progress(loader, "labelling for the crop bank", unit="batch"):
            samples: List[Sample] = [item for item in chunk if isinstance(item, Sample)]
            unreadable += len(chunk) - len(samples)
            if not samples:
                continue
            # `refine` may draw random numbers, and it writes metrics that belong to training steps
            # only.
            rng = np.random.default_rng([self.trainer.iter, samples[0].ref.index])
            with seeded_globals(rng), EventStorage(self.trainer.iter):
                # Before this step's forward pass, `core.step` is still the last step's number.
                context = replace(core.context(SSODBatch([], samples)), step=self.trainer.iter)
                parts.append(pack_batch(core.pseudo_labels(context), samples))
        gathered = comm.all_gather((parts, unreadable))
        found = [part for own, _ in gathered for part in own]
        if found:
            self.renew(np.concatenate(found))
        unreadable = sum(count for _, count in gathered)
        if unreadable:
            logger.warning(
                f"{unreadable} unlabelled images could not be read for the CropBank; the log names them as "
                "training draws them."
            )


class CropBankDiagnostics(HookBase):
    """Statistics and pictures, on rank 0.

    Files: OUTPUT_DIR/crop_bank/<n>.jpg, pasted strong views with their training boxes, and
    index.json.

    Args:
        put_statistics: writes the bank's statistics to the event storage. period: steps between
            two calls.
        take_picture: returns each picture once when it is due, otherwise None.
        class_names, image_format: the class names and channel order of the pictures.
    """

    def __init__(
        self,
        put_statistics: Callable[[], None],
        period: int,
        take_picture: Callable[[], Optional[Picture]],
        class_names: Sequence[str],
        image_format: str,
    ) -> None:
        self.put_statistics, self.period = put_statistics, period
        self.take_picture = take_picture
        self.class_names, self.image_format = class_names, image_format

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self.put_statistics()
        picture = self.take_picture()
        if picture is not None:
            self._draw(done, *picture)

    def _draw(self, step: int, samples: List[Sample], targets: List[Instances]) -> None:
        folder = os.path.join(self.trainer.cfg.OUTPUT_DIR, FOLDER)
        os.makedirs(folder, exist_ok=True)
        names = self.class_names
        channels = [2, 1, 0] if self.image_format == "RGB" else [0, 1, 2]
        rows: List[Dict[str, Any]] = []
        for index, (sample, target) in enumerate(list(zip(samples, targets))[:_PICTURES]):
            regresses = target.gt_roi_reg_weight > 0
            picture = draw_boxes(
                sample.strong[channels],
                target.gt_boxes.tensor,
                target.gt_classes + len(names) * regresses,
                [*names, *(f"{name} +box" for name in names)],
                scale=max(1, _ENLARGED // max(sample.strong.shape[1:])),
                masks=target.gt_masks.tensor if target.has("gt_masks") else None,
            )
            encoded = cv2.imencode(".jpg", picture[:, :, ::-1])[1].tobytes()
            # The call happens inside the loop, so the loop's variable has the right value.
            write_atomically(os.path.join(folder, f"{index}.jpg"), lambda file: file.write(encoded))
            pasted = sample.extras.get("CropBank")
            rows.append(
                {
                    "picture": f"{index}.jpg",
                    "file_name": sample.file_name,
                    "labels": len(target),
                    "pasted": 0 if pasted is None else len(pasted.boxes),
                    "regress": int(regresses.sum()),
                }
            )
            if index == 0:
                get_event_storage().put_image("crop_bank: pasted", picture.transpose(2, 0, 1))
        content = json.dumps({"step": step, "images": rows}).encode()
        write_atomically(os.path.join(folder, "index.json"), lambda file: file.write(content))
