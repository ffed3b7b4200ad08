"""Raw predictions of one detector on many images, in shard files that survive a killed process.

Shapes: n images of a shard, S predictions of all of them; boxes are XYXY in absolute pixels of the
image file.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ssod.data.mapper import UnreadableImage, read_image
from ssod.data.masks import RleMasks
from ssod.data.packed import PackedRecords
from ssod.detectors.image_features import ImageFeatures
from ssod.engine.loading import load_detector
from ssod.errors import UserError
from ssod.utils.atomic import write_atomically
from ssod.utils.progress import progress
from ssod.utils.run_folder import weights_of
from ssod.utils.share import Share

SHARD_SIZE = 500  # images


class Prediction(NamedTuple):
    """`found`: pred_boxes, scores, pred_classes, and pred_masks (`RleMasks`) where the model has
    masks, in pixels of the file, on the CPU; None where it cannot be read (`problem`). `feature`:
    (D,) of the image, where it was asked for.
    """

    found: Optional[Instances]
    problem: str = ""
    feature: Optional[np.ndarray] = None


class PredictionStore:
    """The shard files of one detector on a fixed list of images.

    Args:
        folder: of this detector, these images and these settings alone. count: number of images.
    """

    def __init__(self, folder: str, count: int) -> None:
        self.folder, self.count = folder, count
        self.num_shards = -(-count // SHARD_SIZE)

    def indices(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * SHARD_SIZE, min(self.count, (shard + 1) * SHARD_SIZE))

    def missing(self) -> List[int]:
        """Shards that are not written yet."""
        return [s for s in range(self.num_shards) if not os.path.exists(self._path(s))]

    def write(self, shard: int, rows: Sequence[Prediction]) -> None:
        """Writes a shard. If the process is killed, the file is either complete or missing."""
        assert len(rows) == len(self.indices(shard))
        found = [row.found for row in rows if row.found is not None]
        arrays = {
            # -1: cannot be read
            "counts": np.array([-1 if r.found is None else len(r.found) for r in rows]),
            "sizes": np.array([(0, 0) if r.found is None else r.found.image_size for r in rows]),
            "problems": np.array([row.problem for row in rows]),
            "boxes": np.concatenate(
                [np.zeros((0, 4), np.float32)] + [f.pred_boxes.tensor.numpy() for f in found]
            ),
            "scores": np.concatenate([np.zeros(0, np.float32)] + [f.scores.numpy() for f in found]),
            "classes": np.concatenate(
                [np.zeros(0, np.int64)] + [f.pred_classes.numpy() for f in found]
            ),
        }
        if any(row.has("pred_masks") for row in found):
            counts = [rle["counts"] for row in found for rle in row.pred_masks.rles]
            arrays["mask_counts"] = np.frombuffer(b"".join(counts), dtype=np.uint8)
            arrays["mask_ends"] = np.cumsum([0, *map(len, counts)], dtype=np.int64)
        features = [r.feature for r in rows if r.feature is not None]
        if features:
            # Half precision is enough to tell images apart.
            arrays["features"] = np.stack(features).astype(np.float16)
        write_atomically(self._path(shard), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def read(self, shard: int) -> List[Prediction]:
        """The predictions of a shard, an entry an image."""
        with np.load(self._path(shard), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        rows, start = [], 0
        features = iter(arrays.get("features", ()))
        for count, size, problem in zip(arrays["counts"], arrays["sizes"], arrays["problems"]):
            if count < 0:
                rows.append(Prediction(None, str(problem)))
                continue
            part = slice(start, start + int(count))
            found = Instances((int(size[0]), int(size[1])))
            found.pred_boxes = Boxes(torch.from_numpy(arrays["boxes"][part]))
            found.scores = torch.from_numpy(arrays["scores"][part])
            found.pred_classes = torch.from_numpy(arrays["classes"][part])
            if "mask_ends" in arrays:
                found.pred_masks = _read_masks(arrays, part, found.image_size)
            rows.append(Prediction(found, "", next(features, None)))
            start = part.stop
        return rows

    def __iter__(self) -> Iterator[Prediction]:
        """All images in order; one shard at a time is in memory."""
        for shard in range(self.num_shards):
            yield from self.read(shard)

    def _path(self, shard: int) -> str:
        return os.path.join(self.folder, f"{shard:05d}.npz")


def _read_masks(
    arrays: Dict[str, np.ndarray], part: slice, image_size: Tuple[int, int]
) -> RleMasks:
    ends, counts = arrays["mask_ends"][part.start : part.stop + 1], arrays["mask_counts"]
    pieces = [counts[low:high].tobytes() for low, high in zip(ends, ends[1:])]
    return RleMasks([{"size": list(image_size), "counts": piece} for piece in pieces])


def predict(
    cfg: CfgNode,
    weights: str,
    records: Sequence[Dict[str, Any]],
    cache: str,
    tta: bool = False,
    share: Share = Share(),
    *,
    role: Optional[str] = None,
    features: bool = False,
) -> PredictionStore:
    """Runs a detector on images.

    The ranks share the shards. Finished shards are not predicted again.

    Called on all ranks, which must see the same `cache`.

    Args:
        weights: a weights file, a finished run's folder, or a full checkpoint, of which the teacher
            predicts.
        records: with "file_name". cache: folder of all detectors' predictions; each has its own
            folder in it, named by a digest of the weights, the model, the test sizes and the
            images.
        tta: several sizes and a flip, as `TEST.AUG` says, merged by non-maximum suppression ("data
            distillation").
        share: predict only these shards. The store may then be incomplete.
        role: "teacher" or "student" of a full checkpoint; None: the teacher.
        features: keeps a vector of each image too, see `ImageFeatures`.
    """
    folder = ""
    if comm.is_main_process():
        folder = os.path.join(cache, _digest(cfg, weights, records, tta, role, features))
    store = PredictionStore(comm.all_gather(folder)[0], len(records))
    # All ranks must agree on the missing shards before any rank writes one.
    todo = share.of(comm.all_gather(store.missing())[0])
    mine = todo[comm.get_rank() :: comm.get_world_size()]
    if mine:
        _predict_shards(cfg, weights, records, store, mine, tta, role, features)
    comm.synchronize()
    return store


@torch.no_grad()
def _predict_shards(
    cfg: CfgNode,
    weights: str,
    records: Sequence[Dict[str, Any]],
    store: PredictionStore,
    shards: Sequence[int],
    tta: bool,
    role: Optional[str],
    features: bool,
) -> None:
    model = _build(cfg, weights, tta, role)
    indices = [index for shard in shards for index in store.indices(shard)]
    size, most = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    # Test-time augmentation resizes by itself.
    resize = None if tta or not size else T.ResizeShortestEdge(size, most)
    loader: DataLoader = DataLoader(
        _Images(records, cfg.INPUT.FORMAT, resize),
        batch_size=None,
        sampler=indices,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_is,
        generator=torch.Generator().manual_seed(0),
    )
    title = os.sep.join(os.path.abspath(weights).split(os.sep)[-2:])
    bar = progress(title=title, total=len(indices))
    results = iter(loader)
    with ImageFeatures(model) if features else nullcontext() as listener:
        for shard in shards:
            rows = []
            for _ in store.indices(shard):
                item = next(results)
                bar.update()
                if isinstance(item, str):
                    rows.append(Prediction(None, item))
                    continue
                found = model([item])[0]["instances"].to("cpu")
                kept = _above(found, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, tta)
                feature = listener.vector(item["image"]) if listener is not None else None
                rows.append(Prediction(kept, "", feature))
            store.write(shard, rows)
    bar.close()


def _above(found: Instances, threshold: float, tta: bool) -> Instances:
    """The fields of `Prediction`.

    Detections below the model's own threshold, which test-time augmentation keeps, are left out.
    """
    plain = Instances(found.image_size)
    if found.has("pred_masks"):
        plain.pred_masks = RleMasks.encode(found.pred_masks)
    plain.pred_boxes, plain.scores = found.pred_boxes, found.scores
    plain.pred_classes = found.pred_classes
    return plain[plain.scores > threshold] if tta else plain


def _build(cfg: CfgNode, weights: str, tta: bool, role: Optional[str]) -> Any:
    model: Any = load_detector(cfg, weights, role)
    if hasattr(model, "one_class_per_query"):
        model.one_class_per_query = True  # the same box under two classes is one object
    if not tta:
        return model
    if not isinstance(model, GeneralizedRCNN):
        raise UserError(
            f"Test-time augmentation needs GeneralizedRCNN, not {type(model).__name__}: leave it out."
        )
    return GeneralizedRCNNWithTTA(cfg, model)


class _Images(Dataset):
    """Inputs of Detectron2's models. An unreadable image gives the reason instead."""

    def __init__(
        self,
        records: Sequence[Dict[str, Any]],
        image_format: str,
        resize: Optional[T.Augmentation],
    ) -> None:
        # Packed, because workers would copy a list of dicts as soon as they read it.
        self._records = PackedRecords.of(records)
        self._format = image_format
        self._resize = resize

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        try:
            image = read_image(self._records[index], self._format)
        except UnreadableImage as error:
            return error.reason or "unreadable"
        height, width = image.shape[:2]
        if self._resize is not None:
            image = self._resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}


def _as_is(value: Any) -> Any:
    return value


def _digest(
    cfg: CfgNode,
    weights: str,
    records: Sequence[Dict[str, Any]],
    tta: bool,
    role: Optional[str] = None,
    features: bool = False,
) -> str:
    """A digest of everything that predictions depend on."""
    model = cfg.MODEL.clone()
    model.defrost()
    model.WEIGHTS = model.DEVICE = ""
    sizes: Tuple[Any, ...] = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT)
    augmented = cfg.TEST.AUG if tta else None
    settings = [model, sizes, cfg.TEST.DETECTIONS_PER_IMAGE, augmented, SHARD_SIZE]
    if role or features:
        settings += [role, features]
    # The text of `dump()` is not used, because it changes for a config that was read from a dump.
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for record in records:
        sha.update(record["file_name"].encode() + b"\0")
    try:
        with open(weights_of(weights), "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise UserError(
            f"Cannot read the weights {weights} ({error.strerror or error}): correct the path."
        ) from None
    return sha.hexdigest()[:16]
