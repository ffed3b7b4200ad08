"""Pictures of methods that change what the student sees."""

from __future__ import annotations

import os
import tempfile
from typing import Any, List, Tuple

import cv2
import numpy as np
import torch
from detectron2.structures import BoxMode
from matplotlib.figure import Figure
from torch import Tensor

from ssod.method_cards.canvas import BLUE, ORANGE, draw_boxes, figure, show
from ssod.method_cards.scenes import NUM_CLASSES, Scene, scenes
from ssod.methods.acrst.crop_bank.bank import labeled_instances
from ssod.methods.acrst.crop_bank.crops import FileNames
from ssod.methods.acrst.crop_bank.paste import PasteCrops, PasteSettings
from ssod.methods.acrst.crop_bank.recall import class_sampling_probabilities
from ssod.methods.acrst.mixup_mosaic.mixing import Tile, cover_tile, draw_mosaic
from ssod.methods.mixpl.mixing import mixup, mosaic
from ssod.methods.shared.half_size import half_size, shift_aligned_levels
from ssod.structures import Geometry, Sample, SampleRef, make_targets


def crop_bank() -> Figure:
    """A view before and after crops of labelled images were pasted."""
    made, panels = figure(2, width=5.6, height=2.9)
    scene = scenes()[0]
    with tempfile.TemporaryDirectory() as folder:
        records = [_record(folder, i, other) for i, other in enumerate(scenes()[1:])]
        settings = PasteSettings(("unlabeled",), 3, 3, (0.8, 1.4), 0.0, False, 0.0, "RGB")
        paste = PasteCrops(
            settings,
            labeled=labeled_instances(records, NUM_CLASSES),
            probabilities=class_sampling_probabilities(torch.ones(NUM_CLASSES), 2.0).numpy(),
            file_names={"labeled": FileNames([record["file_name"] for record in records])},
        )
        view = torch.from_numpy(scene.image).permute(2, 0, 1).contiguous()
        size = (int(view.shape[1]), int(view.shape[2]))
        geometry = Geometry(np.eye(2, 3), size)
        sample = Sample(SampleRef("unlabeled", 0, 0), "scene.png", 0, view, view, geometry)
        pasted = paste(sample, np.random.default_rng(4), None)
    show(panels[0], scene.image, "an unlabelled image")
    show(panels[1], pasted.strong.permute(1, 2, 0).numpy(), "with three pasted crops")
    labels = pasted.extras["CropBank"]
    words = [str(label) for label in labels.classes.tolist()]
    draw_boxes(panels[1], labels.boxes, ORANGE, words)
    return made


def _record(folder: str, index: int, scene: Scene) -> Any:
    path = os.path.join(folder, f"{index}.png")
    cv2.imwrite(path, scene.image[:, :, ::-1])
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label}
        for box, label in zip(scene.boxes.tolist(), scene.classes.tolist())
    ]
    height, width = scene.image.shape[:2]
    return {"file_name": path, "height": height, "width": width, "annotations": annotations}


def mixup_mosaic() -> Figure:
    """A view that became a mosaic with three labelled images."""
    made, panels = figure(2, width=5.6, height=2.9)
    first, others = scenes()[0], scenes()[1:4]
    canvas = first.image.copy()
    rng = np.random.default_rng(2)
    height, width = canvas.shape[:2]
    regions = draw_mosaic(height, width, (0.3, 0.7), rng)
    labels: List[Tuple[Tensor, Tensor]] = []
    for scene, (x0, y0, x1, y1) in zip(others, regions[1:]):
        tile = Tile(scene.image, scene.boxes.numpy(), scene.classes.numpy())
        cut = cover_tile(tile, y1 - y0, x1 - x0, rng, 0.25)
        canvas[y0:y1, x0:x1] = cut.image
        moved = torch.as_tensor(cut.boxes) + torch.tensor([x0, y0, x0, y0])
        labels.append((moved, torch.as_tensor(cut.classes)))
    show(panels[0], first.image, "an unlabelled image")
    show(panels[1], canvas, "three of four tiles are labelled images")
    for boxes, classes in labels:
        draw_boxes(panels[1], boxes, ORANGE, [str(label) for label in classes.tolist()])
    return made


def mixpl() -> Figure:
    """The mean of two unlabelled images, and a mosaic of four, with all their labels."""
    made, panels = figure(3, width=8.4, height=2.9)
    parts = []
    for scene in scenes()[:4]:
        size = (int(scene.image.shape[0]), int(scene.image.shape[1]))
        image = torch.from_numpy(scene.image).permute(2, 0, 1)
        parts.append((image, make_targets(size, scene.boxes, scene.classes)))
    mixed = [parts[0], mixup(parts[0], parts[1]), mosaic(parts)]
    titles = ("an unlabelled image", "the mean of two", "a mosaic of four")
    for panel, (image, labels), title in zip(panels, mixed, titles):
        show(panel, image.permute(1, 2, 0).numpy(), title)
        words = [str(label) for label in labels.gt_classes.tolist()]
        draw_boxes(panel, labels.gt_boxes.tensor, ORANGE, words)
    return made


def pim() -> Figure:
    """The cells of the main branch's P3 and of the half-size branch's P2 on one object."""
    return _two_sizes("PIM")


def mlc() -> Figure:
    """The same labels at both sizes."""
    return _two_sizes("MLC")


def _two_sizes(name: str) -> Figure:
    made, (left, right) = figure(2, width=5.6, height=2.9)
    scene = scenes()[4]
    small = half_size(torch.from_numpy(scene.image).permute(2, 0, 1)).permute(1, 2, 0)
    # A RoI that the main branch pools from P3, whose cells have 8 pixels.
    level = int(shift_aligned_levels(torch.tensor([1]))[0])
    stride = 4 * 2**level
    show(left, scene.image, "main branch: cells of P3")
    show(right, small.numpy().astype(np.uint8), f"{name}: cells of P{2 + level} at half size")
    for panel, step, factor in ((left, 8, 1.0), (right, stride, 0.5)):
        ends = panel.get_xlim()[1]
        for place in np.arange(0, ends, step):
            panel.axhline(place - 0.5, color="white", linewidth=0.3, alpha=0.6)
            panel.axvline(place - 0.5, color="white", linewidth=0.3, alpha=0.6)
        draw_boxes(panel, scene.boxes * factor, BLUE)
    return made
