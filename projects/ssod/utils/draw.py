"""Boxes and masks on images."""

from __future__ import annotations

from typing import List, Optional, Tuple

import cv2
import numpy as np
from torch import Tensor

# Colours (RGB) that stay apart on photographs; a class takes the one at its index, modulo their
# number.
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240),
    (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200),
)  # fmt: skip

_TINT = 0.4  # share of the class's colour in the pixels of a mask


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    classes: Tensor,
    class_names: List[str],
    scores: Optional[Tensor] = None,
    scale: int = 1,
    masks: Optional[Tensor] = None,
) -> np.ndarray:
    """Draws boxes with class names (and scores), and masks if given, on a copy of the image.

    Args:
        image: uint8 BGR (3, H, W). boxes: (M, 4) pixels of the image. classes: (M,). scores: (M,)
            or None.
        scale: enlarges small images first, so that the text can be read.
        masks: bool (M, H, W) or None; each is a tint in its box's colour, with an outline.

    Returns:
        uint8 RGB (scale * H, scale * W, 3).
    """
    canvas = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()[:, :, ::-1])
    if scale != 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    if masks is not None:
        _draw_masks(canvas, masks.cpu().numpy(), classes.tolist())
    shorter = min(canvas.shape[:2])
    text_size = min(max(0.4, shorter / 1000), 1.0)
    thickness = 1 if shorter < 256 else max(2, round(shorter / 400))
    corners, labels = (boxes * scale).round().int().tolist(), classes.tolist()
    for box, label in zip(corners, labels):
        cv2.rectangle(canvas, box[:2], box[2:], PALETTE[label % len(PALETTE)], thickness)
    # Of many objects of the only class the texts would cover the masks.
    if masks is not None and len(class_names) == 1 and scores is None:
        return canvas
    for index, (box, label) in enumerate(zip(corners, labels)):  # no line crosses a text
        name = class_names[label] if label < len(class_names) else str(label)
        text = name if scores is None else f"{name} {float(scores[index]):.2f}"
        _draw_tag(canvas, text, box, PALETTE[label % len(PALETTE)], text_size)
    return canvas


def _draw_masks(canvas: np.ndarray, masks: np.ndarray, labels: List[int]) -> None:
    """In place; masks are scaled to the canvas. Objects of one class are told apart by outlines."""
    height, width = canvas.shape[:2]
    outlines = []
    for mask, label in zip(masks, labels):
        drawn = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        colour = np.array(PALETTE[label % len(PALETTE)])
        inside = drawn > 0
        tinted = (1 - _TINT) * canvas[inside] + _TINT * colour
        canvas[inside] = np.rint(tinted).astype(np.uint8)
        found, _ = cv2.findContours(drawn, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        outlines.append((found, colour.tolist()))
    for found, colour in outlines:
        cv2.drawContours(canvas, found, -1, colour, 1)


def _draw_tag(
    canvas: np.ndarray, text: str, box: List[int], colour: Tuple[int, int, int], size: float
) -> None:
    """A text on its box's colour, above the box where there is room, else inside it; never beyond
    the image's edges.
    """
    font, stroke = cv2.FONT_HERSHEY_SIMPLEX, 1 if size < 0.7 else 2
    (width, height), below = cv2.getTextSize(text, font, size, stroke)
    height += below + 1
    left = max(0, min(box[0], canvas.shape[1] - width - 3))
    top = box[1] - height if box[1] >= height else max(0, box[1])
    cv2.rectangle(canvas, (left, top), (left + width + 2, top + height), colour, cv2.FILLED)
    red, green, blue = colour
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    ink = (255, 255, 255) if dark else (0, 0, 0)
    at = (left + 1, top + height - below)
    cv2.putText(canvas, text, at, font, size, ink, stroke, cv2.LINE_AA)
