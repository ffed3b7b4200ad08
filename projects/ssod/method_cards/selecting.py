"""Pictures of methods that choose or weigh pseudo-labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou
from matplotlib.figure import Figure

from ssod.method_cards.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    bars,
    draw_boxes,
    figure,
    show,
    titled,
)
from ssod.method_cards.scenes import Labels, pseudo_labels, scenes, teacher_labels
from ssod.methods.acrst.two_stage.filter import two_stage_mask
from ssod.methods.ci_ssod.thresholds import class_thresholds, matching_thresholds
from ssod.methods.gmm_threshold.mixture import fit_mixtures, mixture_thresholds
from ssod.methods.hosts.assignment import candidate_labels, prediction_guided_assignment
from ssod.methods.hosts.reliability import box_deviation, jitter_boxes
from ssod.methods.lsm.comparators import AreaMining
from ssod.methods.pseudo_box_regression import PseudoBoxRegression
from ssod.methods.score_threshold import ScoreThreshold

_NO_CONTEXT: Any = None  # these methods do not use the context


def score_threshold() -> Figure:
    """A teacher's detections, and those that pass a threshold of 0.7."""
    made, (left, right) = figure(2, width=5.6, height=2.9)
    scene, labels = scenes()[1], teacher_labels(scenes()[1])
    method = ScoreThreshold(threshold=0.7)
    kept = method.refine(pseudo_labels(labels), _NO_CONTEXT).instances[0].selected
    words = [f"{c} {s:.2f}" for c, s in zip(labels.classes.tolist(), labels.scores.tolist())]
    show(left, scene.image, "the teacher's detections")
    draw_boxes(left, labels.boxes, [BLUE if k else GREY for k in kept.tolist()], words)
    show(right, scene.image, "pseudo-labels: score ≥ 0.7")
    own = [word for word, keep in zip(words, kept.tolist()) if keep]
    draw_boxes(right, labels.boxes[kept], BLUE, own)
    return made


def pseudo_box_regression() -> Figure:
    """The labels of the main branch. They teach classes alone, or boxes too."""
    made, panels = figure(2, width=5.6, height=2.9)
    scene, labels = scenes()[2], teacher_labels(scenes()[2], seed=1)
    before = ScoreThreshold(threshold=0.7).refine(pseudo_labels(labels), _NO_CONTEXT)
    after = PseudoBoxRegression().refine(before, _NO_CONTEXT)
    for panel, pseudo, title in zip(panels, (before, after), ("without it", "with it")):
        row = pseudo.instances[0][pseudo.instances[0].selected]
        regress = row.roi_reg_weight > 0
        words = [str(c) for c in row.gt_classes.tolist()]
        show(panel, scene.image, f"{title}: {int(regress.sum())} of {len(row)} labels regress")
        draw_boxes(panel, row.gt_boxes.tensor, BLUE, words, dashed=not regress.any())
    return made


def soft_teacher() -> Figure:
    """Refinements of a box's jittered copies: some that agree, and some that do not."""
    made, panels = figure(2, width=5.6, height=2.9)
    scene = scenes()[1]
    generator = torch.Generator().manual_seed(0)
    box = scene.boxes[:1]
    draws = torch.rand(10, 1, 4, generator=generator) * 2 - 1
    jittered = jitter_boxes(box, draws, 0.06)
    for panel, spread, word in zip(panels, (0.1, 1.5), ("regresses", "does not regress")):
        refined = box + (jittered - box) * spread
        deviation = float(box_deviation(refined, box)[0])
        show(panel, scene.image, f"deviation {deviation:.3f}: {word}")
        draw_boxes(panel, refined[:, 0], ORANGE, width=0.7)
        draw_boxes(panel, box, BLUE)
        x0, y0, x1, y1 = box[0].tolist()
        panel.set_xlim(x0 - 12, x1 + 12)
        panel.set_ylim(y1 + 12, y0 - 12)
    return made


def pseco() -> Figure:
    """Proposals that become positive: by IoU alone, and by the teacher's predictions."""
    made, panels = figure(2, width=5.6, height=2.9)
    scene = scenes()[3]
    rng = np.random.default_rng(0)
    side = (scene.boxes[:, 2:] - scene.boxes[:, :2]).repeat(1, 2).numpy()
    noisy = scene.boxes.numpy() + rng.normal(0, 0.12, (8, *scene.boxes.shape)) * side
    proposals = torch.tensor(noisy.reshape(-1, 4), dtype=torch.float32)
    candidates = candidate_labels(proposals, scene.boxes, 0.4)
    ious = pairwise_iou(Boxes(proposals), Boxes(scene.boxes)).max(dim=1).values
    scores = torch.tensor(rng.uniform(0.2, 1.0, len(proposals)), dtype=torch.float32)
    positive = prediction_guided_assignment(candidates, scores, ious, len(scene.boxes), 12)
    for panel, chosen, title in (
        (panels[0], ious >= 0.5, "IoU ≥ 0.5"),
        (panels[1], positive >= 0, "best by √(score · IoU)"),
    ):
        show(panel, scene.image, f"{title}: {int(chosen.sum())} positive proposals")
        draw_boxes(panel, proposals[~chosen], GREY, width=0.6)
        draw_boxes(panel, proposals[chosen], GREEN, width=1.0)
    return made


def two_stage_filter() -> Figure:
    """Which labels pass, by their score and by their class's activation in the image."""
    made, panels = figure(2)
    generator = torch.Generator().manual_seed(0)
    scores, activations = torch.rand(2, 300, generator=generator)
    for panel, mode in zip(panels, ("filter", "mine")):
        # Here each label is in an image of its own, which has its own activation.
        passes = torch.cat(
            [
                two_stage_mask(s[None], torch.tensor([0]), a[None], 0.7, 0.2, mode)
                for s, a in zip(scores, activations)
            ]
        )
        panel.scatter(scores[~passes], activations[~passes], s=8, color=GREY)
        panel.scatter(scores[passes], activations[passes], s=8, color=BLUE)
        titled(panel, f'MODE "{mode}": {int(passes.sum())} of 300 pass', "score", "activation")
    return made


def gmm_threshold() -> Figure:
    """One class's scores early and late in training, and the threshold that follows them."""
    made, panels = figure(2)
    rng = np.random.default_rng(0)
    places = np.linspace(0, 1, 200)
    for panel, (wrong, right), when in zip(panels, ((0.15, 0.4), (0.25, 0.85)), ("early", "late")):
        values = np.concatenate([rng.normal(wrong, 0.06, 70), rng.normal(right, 0.08, 30)])
        scores = torch.tensor(values, dtype=torch.float32).clamp(0.05, 1)[None]
        counts = torch.tensor([100])
        mixtures, _ = fit_mixtures(scores, counts)
        threshold = float(mixture_thresholds(scores, counts, "mean")[0])
        panel.hist(scores[0].numpy(), bins=30, range=(0, 1), density=True, color=GREY, alpha=0.5)
        for index, colour in enumerate((ORANGE, BLUE)):
            share, mean, deviation = (float(v[0, index]) for v in mixtures)
            bell = np.exp(-(((places - mean) / deviation) ** 2) / 2) / (
                deviation * np.sqrt(2 * np.pi)
            )
            panel.plot(places, share * bell, color=colour)
        panel.axvline(threshold, color="black", linestyle="--")
        titled(panel, f"{when} in training: threshold {threshold:.2f}", "teacher's score")
    return made


def gradient_thresholding() -> Figure:
    """Thresholds of ten classes from their weights and mean scores."""
    made, (left, right) = figure(2)
    names = [str(i) for i in range(10)]
    weights = torch.linspace(0.9, 1.2, 10)
    means = torch.linspace(0.8, 0.25, 10)
    bars(left, [("class weight w", weights, BLUE), ("mean score s", means, ORANGE)], names, "given")
    both = class_thresholds(weights, 0.9, means)
    alone = class_thresholds(weights, 0.9)
    groups = [("from w alone", alone, BLUE), ("from w and s", both, GREEN)]
    bars(right, groups, names, "thresholds (base 0.9)")
    right.set_ylim(0.4, 1.0)
    return made


def label_match() -> Figure:
    """The thresholds that leave as many labels per image as the labelled set has boxes."""
    made, (left, right) = figure(2)
    rng = np.random.default_rng(0)
    histogram = np.stack(
        [np.histogram(rng.beta(a, b, 4000), 100, (0, 1))[0] / 1000 for a, b in ((2, 2), (1, 5))]
    )
    wanted = torch.tensor([1.0, 0.5])
    limits = matching_thresholds(torch.tensor(histogram), wanted)
    places = (np.arange(100) + 0.5) / 100
    for panel, row, limit, want in zip((left, right), histogram, limits.tolist(), wanted.tolist()):
        panel.bar(places, row, 0.01, color=np.where(places > limit, BLUE, GREY).tolist())
        panel.axvline(limit, color="black", linestyle="--")
        title = f"{want:g} boxes an image: threshold {limit:.2f}"
        titled(panel, title, "teacher's score", "detections an image")
    return made


def area_mining() -> Figure:
    """Small objects need a score of 0.7, large ones 0.5."""
    made, (panel,) = figure(1, width=4.2)
    rng = np.random.default_rng(0)
    sides = torch.tensor(rng.uniform(8, 220, 250), dtype=torch.float32)
    scores = torch.tensor(rng.uniform(0.05, 1, 250), dtype=torch.float32)
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    labels = Labels(boxes, torch.zeros(250, dtype=torch.int64), scores)
    # The view has the same size as the file.
    sample = SimpleNamespace(geometry=SimpleNamespace(matrix=np.eye(2, 3)))
    context: Any = SimpleNamespace(batch=SimpleNamespace(unlabeled=[sample]))
    method = AreaMining(threshold=0.7, low_threshold=0.5, min_area=96.0**2)
    kept = method.refine(pseudo_labels(labels), context).instances[0].selected
    panel.scatter(sides[~kept], scores[~kept], s=8, color=GREY)
    panel.scatter(sides[kept], scores[kept], s=8, color=BLUE)
    titled(panel, "labels that are kept (blue)", "√area in pixels of the file", "score")
    return made
