"""Pictures of methods for long-tailed classes."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from ssod.method_cards.canvas import BLUE, GREEN, GREY, ORANGE, bars, figure, titled
from ssod.methods.c2am import angular_margins
from ssod.methods.ci_ssod.class_weights import solve_class_weights
from ssod.methods.ci_ssod.equalization import equalization_weights
from ssod.methods.ci_ssod.gradient_matrix import gradient_matrix
from ssod.methods.ci_ssod.repeat_factors import class_sampling_rates, image_repeat_factors
from ssod.methods.ci_ssod.sampling import labeled_repeat_factors
from ssod.methods.crest.alignment import align_distributions, target_distribution
from ssod.methods.daso.blending import blend_distributions, blending_shares
from ssod.methods.defrcn.calibration import calibrated_scores

_NAMES = [str(i) for i in range(10)]
# Boxes of each class, falling as 0.7^k.
_COUNTS = torch.tensor([1000 * 0.7**k for k in range(10)])


def gradient_reweighting() -> Figure:
    """The gradient matrix of RoIs whose rare classes are not recognised, and the class weights."""
    made, (left, right) = figure(2)
    generator = torch.Generator().manual_seed(0)
    shares = torch.cat([_COUNTS, _COUNTS.sum()[None]])
    labels = torch.multinomial(shares, 4000, replacement=True, generator=generator)
    logits = torch.randn(4000, 11, generator=generator)
    logits += (shares / shares.sum()).log() * 0.7
    logits[torch.arange(4000), labels] += 3
    matrix = gradient_matrix(logits, labels)
    largest = float(matrix.abs().max().log10())
    picture = np.where(matrix < 0, -1, 1) * (matrix.abs().clamp(min=1).log10() / largest).numpy()
    left.imshow(picture, cmap="RdBu_r", vmin=-1, vmax=1)
    titled(left, "gradient matrix G (log)", "label of the RoI", "logit")
    weights = solve_class_weights(matrix)
    bars(right, [("w", weights, BLUE)], [*_NAMES, "bg"], "weights that balance each row")
    right.axhline(1, color=GREY, linewidth=0.8)
    return made


def class_rebalancing_sampling() -> Figure:
    """How often images are drawn whose pseudo-label is of each class."""
    made, (left, right) = figure(2)
    rates = class_sampling_rates(_COUNTS, 4000, 1.0)
    bars(left, [("S", rates, BLUE)], _NAMES, "sampling rate of each class")
    labels = [(torch.tensor([k]), torch.tensor([0.95])) for k in range(10)]
    thresholds = torch.full((10,), 0.6)
    factors = image_repeat_factors(labels, _COUNTS, 4000, thresholds, 1.0)
    title = "repeat factor of an image with a label of score 0.95"
    bars(right, [("factor", factors, GREEN)], _NAMES, title)
    return made


def repeat_factor_sampling() -> Figure:
    """Repeat factors of labelled images, by their rarest class."""
    made, (panel,) = figure(1, width=4.4)
    images = [
        {"annotations": [{"category_id": k, "iscrowd": 0}]}
        for k, count in enumerate((_COUNTS / 10).round().int().tolist())
        for _ in range(count)
    ]
    first = [next(i for i, im in enumerate(images) if im["annotations"][0]["category_id"] == k) for k in range(10)]  # fmt: skip
    factors = labeled_repeat_factors(images, 0.1)[first]
    title = "repeat factor of an image by its rarest class"
    bars(panel, [("factor", factors, BLUE)], _NAMES, title)
    return made


def eqlv2() -> Figure:
    """The factors of a class's positive and negative gradients, by their ratio so far."""
    made, (panel,) = figure(1, width=4.4)
    ratio = torch.linspace(0.01, 1.5, 150)
    positive, negative = equalization_weights(ratio, torch.ones(150), 12.0, 0.8, 4.0)
    panel.plot(ratio, positive[:-1], color=BLUE, label="of positives")
    panel.plot(ratio, negative[:-1], color=ORANGE, label="of negatives")
    panel.legend(fontsize=7, frameon=False)
    titled(panel, "factors of a class's gradients", "positive / negative gradients so far")
    return made


def c2am() -> Figure:
    """The margins between classes whose classifiers have weights of different norms."""
    made, (panel,) = figure(1, width=3.6, height=2.9)
    margins = angular_margins(torch.linspace(2.0, 1.0, 10), 1.0)
    picture = panel.imshow(torch.rad2deg(margins), cmap="Blues")
    made.colorbar(picture, ax=panel, shrink=0.8)
    titled(panel, "margin in degrees (weights' norm falls by class)", "competitor", "label")
    return made


def daso() -> Figure:
    """One box's class distribution by the classifier, by the prototypes, and blended."""
    made, (left, right) = figure(2)
    shares = blending_shares(_COUNTS, 2.0)
    bars(left, [("v", shares, BLUE)], _NAMES, "share of the prototypes, by predicted class")
    linear = torch.tensor([[0.5, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.3, 0.02, 0.02]])
    semantic = torch.tensor([[0.2, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.64, 0.02, 0.02]])
    blended = blend_distributions(linear, semantic, shares)
    groups = [("classifier", linear[0], GREY), ("prototypes", semantic[0], ORANGE)]
    bars(right, [*groups, ("blended", blended[0], BLUE)], _NAMES, "a box of class 7")
    return made


def distribution_alignment() -> Figure:
    """One box's class distribution before and after alignment."""
    made, (left, right) = figure(2)
    target = target_distribution(_COUNTS, 0.5)
    model = target_distribution(_COUNTS, 1.5)
    groups = [("the teacher's labels", model, GREY), ("wanted", target, GREEN)]
    bars(left, groups, _NAMES, "shares of the classes")
    box = torch.full((1, 10), 0.02)
    box[0, 0], box[0, 6] = 0.45, 0.35
    aligned = align_distributions(box, target, model)
    groups = [("before", box[0], GREY), ("aligned", aligned[0], BLUE)]
    bars(right, groups, _NAMES, "a box between classes 0 and 6")
    return made


def defrcn() -> Figure:
    """Scores of a minority class's boxes, mixed with the cosine to its prototype."""
    made, (panel,) = figure(1, width=4.4)
    cosines = torch.linspace(0, 1, 60)
    features = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    for score, colour in ((0.2, GREY), (0.5, ORANGE), (0.8, BLUE)):
        scores = torch.full((60,), score)
        classes = torch.zeros(60, dtype=torch.int64)
        prototypes, known = torch.tensor([[1.0, 0.0]]), torch.tensor([True])
        mixed = calibrated_scores(scores, classes, features, prototypes, known)
        panel.plot(cosines, mixed, color=colour, label=f"score {score:g}")
    panel.legend(fontsize=7, frameon=False)
    titled(panel, "calibrated score", "cosine to the class's prototype")
    return made
