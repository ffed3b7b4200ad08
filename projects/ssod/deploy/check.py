"""Compares an exported model with its original, on images.

Shapes: N and M detections of one image. Boxes are XYXY in pixels.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Dict, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import nn
from tqdm import tqdm

from ssod.data.pixels import read_pixels
from ssod.errors import UserError

# Tolerances of scores, and of boxes as a share of their longer side, with a floor in pixels.
TOLERANCE = 1e-3
_FLOOR_PIXELS = 0.01
# The share of a mask's pixels that may differ by rounding.
_MASK_PIXELS = 0.01
# Non-maximum suppression and the limits of candidates compare numbers. Rounding changes the result
# if two numbers are nearly equal. This share of the detections may therefore lack a partner.
ALLOWED_SHARE = 1e-3

Detections = Dict[str, np.ndarray]


@dataclass
class Comparison:
    """Counts over images.

    Attributes:
        images, detections: that were compared. unmatched: detections of either model without a
            partner of the other's. largest_score, largest_box: the largest differences among
            partners, of scores and in pixels.
    """

    images: int = 0
    detections: int = 0
    unmatched: int = 0
    largest_score: float = 0.0
    largest_box: float = 0.0

    def add(self, other: "Comparison") -> None:
        """Adds the counts of other images."""
        self.images += other.images
        self.detections += other.detections
        self.unmatched += other.unmatched
        self.largest_score = max(self.largest_score, other.largest_score)
        self.largest_box = max(self.largest_box, other.largest_box)

    def agrees(self) -> bool:
        """Whether rounding explains the differences."""
        return self.unmatched <= ALLOWED_SHARE * self.detections

    def line(self) -> str:
        """For people."""
        text = (
            f"{self.images} images, {self.detections} detections: largest difference of scores {self.largest_score:.1e}, "
            f"of boxes {self.largest_box:.1e} pixels"
        )
        return text + (f", {self.unmatched} without a partner" if self.unmatched else "")


def compare(ours: Detections, theirs: Detections, lowest: float = 0.0) -> Comparison:
    """Finds for each detection of the one model a partner of the other's.

    Partners have the same class, scores within `TOLERANCE`, and boxes within `TOLERANCE` of their
    longer side. Each is the partner of one detection only. The order of equal scores does not
    matter.

    Args:
        ours, theirs: "boxes" (N, 4), "scores" (N,), "classes" (N,), and "masks" (N, H, W) if the
            model has them; M rows on the other side.
        lowest: the score that the models cut at. What scores less than `TOLERANCE` above it may be
            missing on one side.

    Example:
        >>> box = np.array([[0.0, 0.0, 10.0, 20.0]])
        >>> one = {"boxes": box, "scores": np.array([0.9]), "classes": np.array([1])}
        >>> compare(one, {**one, "scores": np.array([0.9004])}).unmatched
        0
        >>> compare(one, {**one, "scores": np.array([0.902])}).unmatched
        2
    """
    found = Comparison(images=1, detections=len(ours["scores"]))
    free = np.ones(len(theirs["scores"]), dtype=bool)
    for row in range(len(ours["scores"])):
        box = ours["boxes"][row]
        scores = np.abs(theirs["scores"] - ours["scores"][row])
        boxes = np.abs(theirs["boxes"] - box).max(axis=1)
        side = max(box[2] - box[0], box[3] - box[1])
        fits = free & (theirs["classes"] == ours["classes"][row]) & (scores <= TOLERANCE)
        fits &= boxes <= max(TOLERANCE * side, _FLOOR_PIXELS)
        if not fits.any():
            found.unmatched += int(ours["scores"][row] > lowest + TOLERANCE)
            continue
        partner = int(np.where(fits, boxes, np.inf).argmin())
        free[partner] = False
        found.largest_score = max(found.largest_score, float(scores[partner]))
        found.largest_box = max(found.largest_box, float(boxes[partner]))
        if "masks" in ours:
            mask, other = ours["masks"][row], theirs["masks"][partner]
            found.unmatched += int((mask != other).sum() > max(_MASK_PIXELS * mask.sum(), 2))
    found.unmatched += int((free & (theirs["scores"] > lowest + TOLERANCE)).sum())
    return found


class Reference:
    """The model as Detectron2 runs it on an image.

    Args:
        cfg: its config. model: in evaluation mode.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.model, self.image_format = model, cfg.INPUT.FORMAT
        self.most = cfg.TEST.DETECTIONS_PER_IMAGE
        size = cfg.INPUT.MIN_SIZE_TEST
        self.resize = T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, pixels: np.ndarray) -> Detections:
        """Detections in uint8 (H, W, 3) RGB."""
        image = pixels[..., ::-1] if self.image_format == "BGR" else pixels
        height, width = image.shape[:2]
        sized = self.resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(sized.transpose(2, 0, 1), dtype=np.float32))
        with torch.no_grad():
            row = {"image": tensor, "height": height, "width": width}
            found = self.model([row])[0]["instances"].to("cpu")
        result = {
            "boxes": found.pred_boxes.tensor.numpy(),
            "scores": found.scores.numpy(),
            "classes": found.pred_classes.numpy(),
        }
        if found.has("pred_masks"):
            result["masks"] = found.pred_masks.numpy()
        return result


def load_predictor(folder: str, threads: int = 0) -> Any:
    """The `Detector` of the `predict.py` that lies in an exported folder.

    Args:
        threads: that ONNX Runtime computes with, 0: as many as it takes. TorchScript takes
            PyTorch's.
    """
    spec = importlib.util.spec_from_file_location("_exported_predict", f"{folder}/predict.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Detector(folder, threads=threads)


def compare_on_images(reference: Reference, detector: Any, files: Sequence[str]) -> Comparison:
    """Runs both models on image files, and on the first two turned by 90 degrees and cut in half,
    so that other shapes than the set's are seen.

    Args:
        detector: what `load_predictor` gives.

    Raises:
        UserError: no file can be read.
    """
    total, lowest = Comparison(), _score_limit(reference.model)
    read = 0
    for file in tqdm(files, desc="Comparing", unit="image", disable=None):
        try:
            pixels = read_pixels(file, "RGB")
        except Exception as error:  # Pillow's decoders raise OSError, ValueError and more
            print(f"note: {file} cannot be read ({error}) and is left out.", file=sys.stderr)
            continue
        shapes = [pixels]
        if read < 2:
            half = pixels[: max(pixels.shape[0] // 2, 1)]
            shapes += [pixels.transpose(1, 0, 2), half]
        read += 1
        for shape in shapes:
            image = np.ascontiguousarray(shape)
            ours = reference(image)
            # The last detections of a full list are chosen among nearly equal scores.
            full = len(ours["scores"]) >= reference.most > 0
            cut = max(lowest, float(ours["scores"].min())) if full else lowest
            try:
                theirs = detector(image)
            except Exception as error:  # whatever a runtime raises
                reason = str(error).strip().splitlines()[-1][:200]
                raise UserError(
                    f"The exported model fails on an image of {image.shape[1]} x {image.shape[0]} pixels ({reason}): one of "
                    "its parts is bound to one image size; use --format detectron2."
                ) from error
            total.add(compare(ours, theirs, cut))
    if not read:
        raise UserError(f"None of {len(files)} images can be read, such as {files[0]}.")
    return total


def _score_limit(model: nn.Module) -> float:
    """The lowest score that a model reports."""
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if isinstance(predictor, nn.ModuleList):  # of Cascade R-CNN
        predictor = predictor[-1]
    for owner in (predictor, model):
        limit = getattr(owner, "test_score_thresh", None)
        if limit is not None:
            return float(limit)
    return 0.0
