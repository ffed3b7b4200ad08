"""Boxes on images."""

from __future__ import annotations

from typing import List, Optional

import cv2
import numpy as np
from torch import Tensor

# Colours (RGB) that stay apart on photographs; a class takes the one at its index, modulo their number.
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240),
    (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200),
)  # fmt: skip


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    classes: Tensor,
    class_names: List[str],
    scores: Optional[Tensor] = None,
    scale: int = 1,
) -> np.ndarray:
    """Draws boxes with class names (and scores) on a copy of the image.

    Args:
        image: uint8 BGR (3, H, W). boxes: (M, 4) pixels of the image. classes: (M,). scores: (M,) or None.
        scale: enlarges small images first, so that the text can be read.

    Returns:
        uint8 RGB (scale * H, scale * W, 3).
    """
    canvas = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()[:, :, ::-1])
    if scale != 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    size = max(0.35, min(canvas.shape[:2]) / 1200)
    for index, (box, label) in enumerate(zip((boxes * scale).round().int().tolist(), classes.tolist())):
        colour = PALETTE[label % len(PALETTE)]
        name = class_names[label] if label < len(class_names) else str(label)
        text = name if scores is None else f"{name} {float(scores[index]):.2f}"
        cv2.rectangle(canvas, box[:2], box[2:], colour, max(1, round(size * 2)))
        above = box[1] - 3 if box[1] > 12 else box[3] + 11
        cv2.putText(canvas, text, (box[0], above), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(canvas, text, (box[0], above), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
    return canvas
