"""Soft Teacher's two measures of trust (Xu et al., "End-to-End Semi-Supervised Object Detection
with Soft Teacher", ICCV 2021).

Shapes: R background RoIs, N images, M boxes, J jittered copies of each. Boxes are XYXY in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_background_weights(scores: Tensor, images: Tensor, num_images: int) -> Tensor:
    """`w_j = n r_j / sum_k r_k` over the n background RoIs of each image. Their mean is 1.

    The paper's weights (its Eq. 4) sum to 1, and it adds this sum to a mean over the foreground.
    Here both parts are divided by the number of RoIs. So the background keeps the share of the loss
    that it has without weights.

    Args:
        scores: (R,) r, the teacher's background probabilities. images: (R,) int64 index of the
            image, in [0, N). num_images: N.

    Returns:
        (R,). The mean over each image's rows is 1. All are 1 if the teacher gives no row a
        background probability.
    """
    count, total = scores.new_zeros(2, num_images).unbind()
    count = count.index_add(0, images, torch.ones_like(scores))
    total = total.index_add(0, images, scores)
    # Below the smallest normal number the ratios are not reliable.
    known = total > torch.finfo(scores.dtype).tiny
    factor = torch.where(known, count / total.where(known, 1.0), 0.0)
    return torch.where(known[images], scores * factor[images], 1.0)


def jitter_boxes(boxes: Tensor, draws: Tensor, amount: float) -> Tensor:
    """Moves every coordinate by up to `amount` times the box's width (x) or height (y).

    Args:
        boxes: (M, 4). draws: (J, M, 4) in [-1, 1].

    Returns:
        (J, M, 4).
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + draws * amount * sizes


def box_deviation(refined: Tensor, boxes: Tensor) -> Tensor:
    """How much the teacher's refinements of the jittered copies disagree.

    The result is the (sample) standard deviation of each coordinate, divided by the box's width or
    height, and averaged over the four. The paper (its Eq. 6-7) divides by the mean of width and
    height. Its code divides each coordinate by its own side, as is done here.

    Args:
        refined: (J, M, 4), J >= 2. boxes: (M, 4), the boxes before jittering.

    Returns:
        (M,). Sides below one pixel count as one pixel.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0).repeat(1, 2)
    # torch.std would warn if there are no boxes.
    variance = (refined - refined.mean(dim=0)).square().sum(dim=0) / (len(refined) - 1)
    return (variance.sqrt() / sizes).mean(dim=1)
