"""Pictures with captions, side by side and in a grid.

Images are uint8 RGB (H, W, 3) arrays unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import List, Optional, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ssod.utils.draw import draw_boxes

BACKGROUND = (245, 245, 245)
_TEXT = (30, 30, 30)
_FONT, _FONT_SCALE, _CAPTION_HEIGHT, _GAP = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 20, 6


@dataclass
class Panel:
    """One image with boxes, not drawn yet.

    Attributes:
        image: uint8 BGR (3, H, W). caption: goes below. boxes: (M, 4) pixels. classes, scores:
            (M,).
        names: of the classes. masks: bool (M, H, W), or None.
    """

    image: Tensor
    caption: str
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    classes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    scores: Optional[Tensor] = None
    names: Sequence[str] = ()
    masks: Optional[Tensor] = None


def draw_panel(panel: Panel, longest: int) -> np.ndarray:
    """The panel's image with boxes, resized to `longest` pixels on its longer side before anything
    is drawn, and caption.
    """
    height, width = panel.image.shape[1:]
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Enlarged pixels stay sharp, as the detector sees them.
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    image = cv2.resize(
        np.ascontiguousarray(panel.image.permute(1, 2, 0).cpu().numpy()), size, interpolation=how
    )
    drawn = draw_boxes(
        torch.from_numpy(image).permute(2, 0, 1),
        panel.boxes.detach().cpu() * scale,
        panel.classes.cpu(),
        list(panel.names),
        scores=panel.scores,
        masks=panel.masks,
    )
    return captioned(drawn, panel.caption)


def single_size(panel: Panel) -> int:
    """The longer side, in pixels, at which a panel's text can be read in a file of its own; large
    images keep theirs.
    """
    height, width = panel.image.shape[1:]
    return max(height, width) * max(1, math.ceil(400 / max(1, min(height, width))))


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """The image with the text's lines below; a long line is cut at the left, to keep a file name's
    end.
    """
    return np.concatenate([image, *(_strip(image, line) for line in text.split("\n"))])


def _strip(image: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((_CAPTION_HEIGHT, image.shape[1], 3), BACKGROUND, dtype=np.uint8)
    shown = text
    while len(shown) > 4 and _width_of(shown) > image.shape[1] - 6:
        shown = "..." + shown[4:] if shown.startswith("...") else "..." + shown[3:]
    cv2.putText(strip, shown, (3, 14), _FONT, _FONT_SCALE, _TEXT, 1, cv2.LINE_AA)
    return strip


def _width_of(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0])


def beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """The images in a row, aligned at the top."""
    return grid(images, columns=len(images), margin=0)


def grid(images: Sequence[np.ndarray], columns: int, margin: int = _GAP) -> np.ndarray:
    """The images in rows of `columns`, each cell as large as the largest image."""
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    shape = (
        rows * (height + _GAP) - _GAP + 2 * margin,
        columns * (width + _GAP) - _GAP + 2 * margin,
        3,
    )
    sheet = np.full(shape, BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top = margin + index // columns * (height + _GAP)
        left = margin + index % columns * (width + _GAP)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def contact_sheet(
    cells: Sequence[List[Panel]], longest: int = 360, width: int = 1800
) -> np.ndarray:
    """A grid of cells, each with its panels side by side.

    Args:
        longest: the longer side of each picture. width: of the sheet, about.
    """
    drawn = [beside([draw_panel(panel, longest) for panel in panels]) for panels in cells]
    widest = max(image.shape[1] for image in drawn)
    return grid(drawn, columns=max(1, width // widest))
