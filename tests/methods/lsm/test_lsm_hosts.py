"""PIM beside methods that paste, reject, host it or give it stored labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional

import pytest
import torch

from lsm_rig import BOX, FULL, LOSSES, OTHER, Rig, config, found_rows
from ssod.methods import Method, StepContext, build_methods
from ssod.methods.shared.half_size import HALF_SIZE
from ssod.structures import PseudoLabels, SSODBatch, View
from steps import bare_context


def test_pasted_labels_are_learned_and_hidden_ones_are_not() -> None:
    """The strong view's labels count, not the teacher's: a method may have pasted objects over
    them.
    """

    class Paste(Method):
        def views(self, views: Any, pseudo: Optional[PseudoLabels], context: StepContext) -> Any:
            row = PseudoLabels.from_detections([found_rows([(OTHER, 0, 1.0)]), found_rows([])])
            view = View(views.unlabeled.images, [], row)
            return replace(views, unlabeled=view)

    cfg = config(*FULL)
    rig = Rig(cfg, [[(BOX, 1, 0.6)], []])
    paste = Paste()
    paste.name = "Paste"
    rig.core.methods["Paste"] = paste
    losses = rig.step()
    labels = torch.cat([roi.gt_classes for roi in rig.branch().rois])
    assert set(labels.tolist()) == {0, 3}
    assert losses["loss_self_distillation"] == 0 and losses["loss_box_reg_pim"] > 0


def test_image_level_rejection_holds_for_pim() -> None:
    """A class that a method finds absent from an image is not mined there; pasted and selected rows
    stay.
    """

    class Images(Method):
        judges = True

        def present(self, context: StepContext) -> Optional[torch.Tensor]:
            return torch.tensor([[False, True, True]]) if self.judges else None

    pim = build_methods(config("ScoreThreshold", "PIM"))["PIM"]
    pseudo = PseudoLabels.from_detections(
        [found_rows([(BOX, 0, 0.6), (BOX, 1, 0.6), (BOX, 1, 0.4), (BOX, 0, 1.0)])]
    )
    pseudo = pseudo.select([torch.tensor([False, False, False, True])])
    context: Any = bare_context()
    assert pim.masks(pseudo, context)[0].tolist() == [True, True, False, True]
    context.methods = {"Images": Images()}
    assert pim.masks(pseudo, context)[0].tolist() == [False, True, False, True]
    Images.judges = False
    assert pim.masks(pseudo, context)[0].tolist() == [True, True, False, True]


@pytest.mark.parametrize("host, key", [("SoftTeacher", "SOFT_TEACHER"), ("PseCo", "PSECO")])
def test_other_hosts_learn_through_pim_what_they_leave_out(host: str, key: str) -> None:
    keys = {f"{key}__SCORE_THRESHOLD": 0.7}
    found = [[(BOX, 1, 0.6), (OTHER, 2, 0.9)], []]
    rig = Rig(config(host, "PIM", "SelfDistillation", **keys), found)
    passes: List[Any] = []
    rig.core.student.backbone.register_forward_hook(lambda m, args, out: passes.append(args[0]))
    losses = rig.step()
    assert set(rig.outputs.unlabeled.labels.tolist()) == {2, 3}
    assert set(torch.cat([roi.gt_classes for roi in rig.branch().rois]).tolist()) == {1, 2, 3}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(losses[name] > 0 for name in LOSSES)
    # PseCo's second view and PIM's are the same images, which pass once.
    assert [len(images) for images in passes] == [6, 2] and set(rig.outputs.extra) == {HALF_SIZE}


def test_stored_labels_are_as_good_as_the_teachers() -> None:
    """STAC as host: the same labels give the same losses, without a teacher's forward."""
    found = [[(BOX, 1, 0.6), (OTHER, 2, 0.9)], [(OTHER, 0, 0.65)]]
    online = Rig(config(*FULL), found).step(False)
    rig = Rig(config(*FULL), found)
    samples = [
        replace(sample, stored=found_rows(rows)) for sample, rows in zip(rig.batch.unlabeled, found)
    ]
    rig.batch = SSODBatch(rig.batch.labeled, samples)
    rig.core.label = None  # type: ignore[assignment,method-assign]
    stored = rig.step(False)
    assert stored.keys() == online.keys() and set(LOSSES) < stored.keys()
    for name, loss in stored.items():
        assert loss.item() == online[name].item(), name


def test_a_map_for_the_half_size_images_alone_is_touched_in_burn_in() -> None:
    """The box head and the RPN from P3 on: P2 has no other use, and DDP wants its gradient."""
    cfg = config(*FULL)
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [48]]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    for found in ([], [[(BOX, 1, 0.6)], []]):
        rig = Rig(cfg, found)
        losses = rig.step()
        assert (losses["loss_cls_pim"] > 0) == bool(found)
        assert all(p.grad is not None for p in rig.core.student.backbone.parameters())
    p2 = rig.core.student.backbone.fpn_output2.weight
    assert p2.grad.any()  # its RoIs, small ones, come from P3
