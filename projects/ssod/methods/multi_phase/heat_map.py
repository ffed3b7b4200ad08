"""Pictures of background weights over an image (the paper's Fig. 5), drawn in training and shown in
the report.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Optional, Sequence

import cv2
import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.utils.atomic import write_atomically
from ssod.utils.draw import draw_boxes
from ssod.utils.step_files import StepFiles

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

_SHOWN = 4  # pictures in the report, the latest ones
_LEAST_SIDE = 256  # smaller images are enlarged to about this


@dataclass
class WeightedImage:
    """An unlabelled image, and the weights of its RoIs.

    Attributes:
        image: uint8 (3, H, W) in the model's channel order. boxes: (R, 4) RoIs in pixels of the
            image.
        weights: (R,). background: (R,) bool. targets: the pseudo-labels of the image in training.
    """

    image: Tensor
    boxes: Tensor
    weights: Tensor
    background: Tensor
    targets: Instances


def weight_map(boxes: Tensor, weights: Tensor, height: int, width: int) -> np.ndarray:
    """Mean weight of the boxes over each pixel, float32 (height, width). NaN where no box lies."""
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (x0, y0, x1, y1), weight in zip(boxes.round().int().tolist(), weights.tolist()):
        part = np.s_[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        total[part] += weight
        count[part] += 1
    with np.errstate(invalid="ignore"):
        return (total / count).astype(np.float32)


def draw_weights(shown: WeightedImage, class_names: Sequence[str], image_format: str) -> np.ndarray:
    """Draws the image with its pseudo-labels, and next to it the weights from blue (0) to red (1).
    Pixels without a RoI are grey.

    Returns:
        uint8 RGB (H', 2W', 3), enlarged if the image is small.
    """
    channels = [2, 1, 0] if image_format == "RGB" else [0, 1, 2]
    image = shown.image.cpu()[channels]
    height, width = image.shape[1:]
    scale = max(1, _LEAST_SIDE // max(height, width))
    targets = shown.targets.to("cpu")
    labels = draw_boxes(
        image,
        targets.gt_boxes.tensor,
        targets.gt_classes,
        list(class_names),
        scale=scale,
        masks=targets.gt_masks.tensor if targets.has("gt_masks") else None,
    )
    kept = shown.background.cpu()
    heat = weight_map(shown.boxes.detach().cpu()[kept], shown.weights.cpu()[kept], height, width)
    grey = np.repeat(image.float().mean(dim=0).numpy()[:, :, None], 3, axis=2)
    colour = cv2.applyColorMap((np.nan_to_num(heat) * 255).astype(np.uint8), cv2.COLORMAP_JET)
    mixed = np.where(np.isnan(heat)[:, :, None], grey, 0.4 * grey + 0.6 * colour[:, :, ::-1])
    mixed = np.ascontiguousarray(mixed.round().astype(np.uint8))
    size = (scale * width, scale * height)
    return np.concatenate(
        [labels, cv2.resize(mixed, size, interpolation=cv2.INTER_NEAREST)], axis=1
    )


class DrawWeights(HookBase):
    """Writes folder/step_<n>.jpg every `period` steps, and the same picture to the event storage.

    Args:
        latest: returns the image to draw, None if there is none yet. period: steps between
            pictures.
    """

    def __init__(
        self,
        latest: Callable[[], Optional[WeightedImage]],
        period: int,
        folder: str,
        class_names: Sequence[str],
        image_format: str,
    ) -> None:
        self.latest = latest
        self.period = period
        self.files = StepFiles(folder, ".jpg")
        self.class_names = class_names
        self.image_format = image_format

    def before_train(self) -> None:
        self.files.drop_after(self.trainer.start_iter)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        shown = self.latest()
        if done % self.period or shown is None:
            return
        with torch.no_grad():
            picture = draw_weights(shown, self.class_names, self.image_format)
        get_event_storage().put_image(
            "uncertain_negatives: pseudo-labels, background weights", picture.transpose(2, 0, 1)
        )
        jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        write_atomically(self.files.path(done), lambda file: file.write(jpeg.tobytes()))


def weight_section(run: "RunData") -> Optional["Section"]:
    """The latest heat maps and the mean weight over training. None if the run has neither."""
    from ssod.plotting.charts import Line, line_chart
    from ssod.plotting.pictures import Card, Shot, data_uri, pictures
    from ssod.plotting.section import Section, grid, join, remark, run_colour

    points = run.series("uncertain_negatives/mean_weight")
    files = StepFiles(os.path.join(run.folder, "uncertain_negatives"), ".jpg")
    found = files.found()[-_SHOWN:]
    if not points and not found:
        return None
    chart = line_chart(
        "Mean weight of background RoIs",
        [Line("mean weight", points, run_colour(0))],
        low=0.0,
        high=1.0,
        with_legend=False,
    )
    shots = []
    for step, path in found:
        with open(path, "rb") as file:
            caption = f"step {step}: pseudo-labels, background weights"
            shots.append(Shot(caption, data_uri(file.read())))
    meaning = remark(
        "Each pixel shows the mean weight of the background RoIs over it: red is certain background "
        "(weight 1), blue may be an object without a pseudo-label (weight 0), grey has no sampled "
        "RoI."
    )
    maps = [pictures([Card([shot]) for shot in shots])] if shots else []
    return Section("Uncertain negatives", join([grid([chart]), meaning, *maps]))
