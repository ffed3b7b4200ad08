"""Pictures of methods that weigh RoIs or learn from the teacher's distributions."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

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
from ssod.method_cards.scenes import Scene, scenes
from ssod.methods.dense_teacher.losses import learning_region
from ssod.methods.hosts.reliability import soft_background_weights
from ssod.methods.listen2student.losses import better_sides
from ssod.methods.lsm.distillation import self_distillation_loss
from ssod.methods.multi_phase.heat_map import weight_map
from ssod.methods.multi_phase.uncertainty import background_weights
from ssod.methods.pudet.hint import location_mask
from ssod.methods.soft_distillation.losses import sharpened


def self_distillation() -> Figure:
    """The loss of one RoI, by the score of the label that it was matched with."""
    made, (panel,) = figure(1, width=4.4)
    main, aux = torch.tensor([[2.0, 0.5, 0.0]]), torch.tensor([[0.5, 2.0, 0.0]])
    scores = torch.linspace(0, 1, 201)
    losses = [self_distillation_loss(main, aux, s[None], 0.5, 0.7) for s in scores]
    panel.plot(scores, torch.stack(losses), color=BLUE)
    titled(panel, "distilled between alpha and t alone", "score of the RoI's label", "KL")
    return made


def uncertain_negatives() -> Figure:
    """Where background counts, around an object with and an object without a label."""
    made, panels = figure(2, width=6.2, height=2.9)
    scene = scenes()[1]
    labelled = scene.boxes[:1]
    rois, features, own = _rois(scene)
    weights = background_weights(rois, features, labelled, own, a=0.25, b=50.0, c1=20.0, c2=14.0)
    show(panels[0], scene.image, "one object has a pseudo-label")
    draw_boxes(panels[0], labelled, BLUE)
    show(panels[1], scene.image, "weight of the background")
    heat = weight_map(rois, weights, 128, 128)
    drawn = panels[1].imshow(heat, cmap="coolwarm", vmin=0, vmax=0.5, alpha=0.75)
    made.colorbar(drawn, ax=panels[1], shrink=0.8)
    return made


def _rois(scene: Scene) -> Tuple[Tensor, Tensor, Tensor]:
    """(N, 4) background RoIs, (N, 2) their features, (1, 2) that of the labelled object. A RoI that
    lies on an object resembles the labelled one.
    """
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (600, 2))
    rois = torch.tensor(
        np.concatenate([corners, corners + rng.uniform(14, 28, (600, 2))], 1), dtype=torch.float32
    )
    likeness = _best_iou(rois, scene.boxes).clamp(max=0.5) * 2
    features = torch.stack([likeness, 1 - likeness], dim=1)
    apart = _best_iou(rois, scene.boxes[:1]) < 0.5
    return rois[apart], features[apart], torch.tensor([[1.0, 0.0]])


def _best_iou(boxes: Tensor, others: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = [(b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, others)]
    return (shared / (areas[0][:, None] + areas[1][None] - shared)).max(dim=1).values


def background_weights_of_the_teacher() -> Figure:
    """The weights of background RoIs, by the teacher's background probability."""
    made, panels = figure(2)
    probabilities = torch.tensor([0.98, 0.95, 0.9, 0.7, 0.4, 0.1])
    images = torch.zeros(6, dtype=torch.int64)
    soft = soft_background_weights(probabilities, images, 1)
    hard = (probabilities >= 0.7).float()
    names = [f"{p:.2f}" for p in probabilities.tolist()]
    bars(panels[0], [("soft", soft, BLUE)], names, 'MODE "soft": mean 1')
    bars(panels[1], [("ignore", hard, ORANGE)], names, 'MODE "ignore" at 0.7')
    for panel in panels:
        panel.set_xlabel("teacher's background probability of the RoI", fontsize=8)
    return made


def soft_distillation() -> Figure:
    """A hard label, and the distribution that is learnt in its place."""
    made, panels = figure(2)
    logits = torch.tensor([[0.2, 2.2, 0.1, 1.8, 0.3, 1.0]])
    names = ["0", "1", "2", "3", "4", "bg"]
    hard = torch.nn.functional.one_hot(logits.argmax(1), 6)[0]
    bars(panels[0], [("hard", hard, GREY)], names, "hard label")
    groups = [
        (f"T = {t:g}", sharpened(logits, t)[0], colour) for t, colour in ((1.0, BLUE), (0.5, GREEN))
    ]
    bars(panels[1], groups, names, "the teacher's distribution")
    return made


def bounded_distillation() -> Figure:
    """Where the student imitates the teacher's map, and how its box loss is bounded."""
    made, panels = figure(2, width=5.6, height=2.9)
    scene = scenes()[0]
    for panel, stride, side in zip(panels, (4, 8), (16.0, 32.0)):
        size = 128 // stride
        places = (torch.arange(size) + 0.5) * stride
        y, x = torch.meshgrid(places, places, indexing="ij")
        centres = torch.stack([x, y], dim=2).reshape(-1, 2)
        anchors = torch.cat([centres - side / 2, centres + side / 2], dim=1)
        mask = location_mask(anchors, scene.boxes, (size, size), 0.5).numpy()
        show(panel, scene.image, f"imitation region, stride {stride}")
        shade = np.kron(mask, np.ones((stride, stride)))
        panel.imshow(np.where(shade > 0, 1.0, np.nan), cmap="autumn", alpha=0.5, vmin=0, vmax=1)
        draw_boxes(panel, scene.boxes, BLUE)
    return made


def dense_teacher() -> Figure:
    """The locations that teach: the highest scores, of 32 x 32."""
    made, panels = figure(2, width=5.6, height=2.9)
    scene = scenes()[2]
    places = torch.arange(32) * 4.0 + 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    scores = torch.full((32, 32), 0.02)
    for box, sure in zip(scene.boxes, torch.linspace(0.9, 0.4, len(scene.boxes))):
        middle, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 3
        bump = torch.exp(-(((x - middle[0]) / side[0]) ** 2 + ((y - middle[1]) / side[1]) ** 2))
        scores = torch.maximum(scores, sure * bump)
    show(panels[0], scene.image, "the teacher's highest class score")
    heat = np.kron(scores.numpy(), np.ones((4, 4)))
    panels[0].imshow(heat, cmap="viridis", alpha=0.6)
    region = learning_region(scores.reshape(-1, 1), 0.05).reshape(32, 32)
    show(panels[1], scene.image, f"{int(region.sum())} locations teach (5 % here)")
    panels[1].scatter(x[region], y[region], s=9, color=ORANGE)
    return made


def listen2student() -> Figure:
    """The sides of one box on which the student learns from the teacher."""
    made, (left, right) = figure(2, width=6.2, height=2.9)
    names = ["left", "top", "right", "bottom"]
    teacher = torch.tensor([[0.08, 0.15, 0.45, 0.10]])
    student = torch.tensor([[0.30, 0.20, 0.80, 0.50]])
    chosen = better_sides(teacher, student, margin=0.1, certainty=0.8)[0]
    groups = [("teacher", teacher[0], BLUE), ("student", student[0], ORANGE)]
    bars(left, groups, names, "uncertainty of each side")
    scene = scenes()[3]
    show(right, scene.image, "sides that are regressed (green)")
    x0, y0, x1, y1 = scene.boxes[0].tolist()
    sides = [((x0, x0), (y0, y1)), ((x0, x1), (y0, y0)), ((x1, x1), (y0, y1)), ((x0, x1), (y1, y1))]
    for (xs, ys), learnt in zip(sides, chosen.tolist()):
        right.plot(xs, ys, color=GREEN if learnt else GREY, linewidth=3 if learnt else 1.5)
    right.set_xlim(x0 - 15, x1 + 15)
    right.set_ylim(y1 + 15, y0 - 15)
    return made
