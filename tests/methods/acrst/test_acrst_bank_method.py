"""CropBank in the step: labels, weights, statistics, state, pictures; alone on labelled images;
sweeps.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from detections import pseudo_labels
from runs import digest, state_of, train
from ssod.engine.config_warnings import warnings_about
from ssod.errors import UserError
from ssod.methods import StepContext, TrainingData, build_methods
from ssod.methods.acrst import CropBank
from ssod.methods.acrst.crop_bank.bank import pack_labels
from ssod.methods.acrst.crop_bank.paste import Pasted
from ssod.plotting.run_data import load_runs
from ssod.structures import PseudoLabels, SSODBatch, View, Views
from steps import bare_context, cfg_with, core_of
from tiny import CLASSES, make_sample, tiny_cfg, with_squares

FULL = [[10.0, 10, 20, 20], [30, 30, 50, 50], [0, 40, 8, 60]]


def config(**keys: Any) -> CfgNode:
    cfg = cfg_with(("ScoreThreshold", "CropBank"))
    cfg.SSOD.CROP_BANK.update(keys)
    return cfg


def method(cfg: CfgNode, labeled: Optional[List[dict]] = None, unlabeled: int = 4) -> CropBank:
    built = build_methods(cfg)["CropBank"]
    names = [{"file_name": f"{i}.png"} for i in range(unlabeled)]
    built.setup(TrainingData(labeled or [], names, CLASSES))
    return built


def labeled_record(classes: List[int]) -> dict:
    notes = [{"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": c} for c in classes]
    return {"file_name": "l.png", "height": 64, "width": 64, "annotations": notes}


def some_labels(boxes: List[List[float]] = FULL) -> PseudoLabels:
    return pseudo_labels(np.linspace(0.9, 0.5, len(boxes)), boxes=boxes)


def pasted(boxes: List[List[float]]) -> Pasted:
    count = len(boxes)
    return Pasted(
        torch.tensor(boxes).reshape(-1, 4),
        torch.full((count,), 2),
        torch.full((count,), 0.75),
        torch.zeros(count).long(),
    )


def run_views(
    built: CropBank, pseudo: PseudoLabels, extra: Optional[Pasted], others: Any = ()
) -> Instances:
    sample = make_sample(0, labeled=False)
    if extra is not None:
        sample.extras["CropBank"] = extra
    context = bare_context([sample], dict.fromkeys(others))
    before = [row.get_fields().copy() for row in pseudo.instances]
    views = Views(View([], []), View([sample.strong], [], pseudo))
    after = built.views(views, pseudo, context)
    assert [row.get_fields() for row in pseudo.instances] == before  # not edited in place
    return after.unlabeled.pseudo.instances[0]


def test_labels_are_merged_and_hidden_ones_removed() -> None:
    pseudo = some_labels().with_columns([{"other": torch.tensor([[1.0, 2], [3, 4], [5, 6]])}])
    pseudo = pseudo.select([torch.tensor([True, False, True])])
    row = run_views(
        method(config()), pseudo, pasted([[8.0, 8, 22, 15], [8, 15, 22, 22], [40, 30, 60, 50]])
    )
    # The first is hidden by two crops together; the second half-hidden, so it stays.
    assert row.gt_boxes.tensor.tolist() == FULL[1:] + [
        [8, 8, 22, 15],
        [8, 15, 22, 22],
        [40, 30, 60, 50],
    ]
    assert row.gt_classes.tolist() == [1, 2, 2, 2, 2] and row.selected.tolist() == [0, 1, 1, 1, 1]
    assert row.scores.tolist() == pytest.approx([0.7, 0.5] + [0.75] * 3)
    for part in ("rpn", "roi"):
        assert row.get(f"{part}_reg_weight").tolist() == [0, 0, 1, 1, 1]
        assert row.get(f"{part}_cls_weight").tolist() == [1] * 5
    assert row.other.tolist() == [[3, 4], [5, 6]] + [[0, 0]] * 3


def test_without_selective_supervision_the_host_decides() -> None:
    built, extra = method(config(SELECTIVE_SUPERVISION=False)), pasted([[0.0, 0, 5, 5]])
    row = run_views(built, some_labels(), extra)
    assert row.rpn_reg_weight.tolist() == row.roi_reg_weight.tolist() == [0] * 4  # Eq. 5
    ones = [{"rpn_reg_weight": torch.ones(3), "roi_reg_weight": torch.ones(3)}]
    row = run_views(built, some_labels().with_columns(ones), extra, ["PseudoBoxRegression"])
    assert row.rpn_reg_weight.tolist() == row.roi_reg_weight.tolist() == [1] * 4
    row = run_views(method(config()), some_labels().with_columns(ones), extra)
    assert row.rpn_reg_weight.tolist() == row.roi_reg_weight.tolist() == [0, 0, 0, 1]


def test_box_regression_that_is_taken_back_is_no_activity() -> None:
    for selective in (False, True):
        cfg = cfg_with(("ScoreThreshold", "PseudoBoxRegression", "CropBank"))
        cfg.SSOD.CROP_BANK.SELECTIVE_SUPERVISION = selective
        found = warnings_about(cfg)
        assert any("PseudoBoxRegression changes nothing" in line for line in found) == selective
        now = bare_context(methods=build_methods(cfg))
        regression = now.methods["PseudoBoxRegression"]
        after = regression.refine(some_labels(), now)
        assert float(regression.activity(None, after, now)) == (0 if selective else len(FULL))


def test_visible_fraction_threshold() -> None:
    half = pasted([[10.0, 10, 20, 15]])
    kept = run_views(method(config(MIN_VISIBLE_FRACTION=0.4)), some_labels(), half)
    assert len(kept) == 4
    assert len(run_views(method(config(MIN_VISIBLE_FRACTION=0.5)), some_labels(), half)) == 3


@pytest.mark.parametrize("extra", [None, pasted([[1.0, 1, 9, 9]])])
def test_images_without_pseudo_labels(extra: Optional[Pasted]) -> None:
    row = run_views(method(config()), some_labels([]), extra)
    assert len(row) == (0 if extra is None else 1)
    target = PseudoLabels([row]).to_targets()[0]
    assert target.gt_roi_reg_weight.tolist() == [1] * len(row)


def test_no_stray_weight_reaches_background(storage: Any) -> None:
    """Own labels do not regress, pasted ones do, in RPN and RoI head; background RoIs classify with
    weight 1.
    """
    cfg = config()
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    core = core_of(cfg)
    built = core.methods["CropBank"]
    built.setup(TrainingData([], [{"file_name": "0.png"}] * 4, CLASSES))
    sample = make_sample(0, labeled=False)
    sample.extras["CropBank"] = pasted([[40.0, 2, 60, 22]])
    batch = SSODBatch([make_sample(1, labeled=True)], [sample])
    context = StepContext(0, batch, core.student, core.teacher)
    views = core.student_views(batch, some_labels(), context)
    outputs = core.run_student(views).unlabeled
    assert outputs is not None
    roi = outputs.rois[0]
    new = (roi.gt_boxes.tensor == torch.tensor([40.0, 2, 60, 22])).all(dim=1) & (roi.gt_classes < 3)
    foreground = roi.gt_classes < 3
    assert new.any() and (foreground & ~new).any() and (~foreground).any()
    assert (outputs.cls_weights == 1).all()
    assert (outputs.reg_weights[new] == 1).all()
    assert (outputs.reg_weights[foreground & ~new] == 0).all()
    anchors = outputs.anchors[0]
    pasted_anchor = (anchors.gt_boxes == torch.tensor([40.0, 2, 60, 22])).all(dim=1)
    assert pasted_anchor.any() and not pasted_anchor.all()
    assert (
        torch.equal(anchors.reg_weights, pasted_anchor.float()) and (anchors.cls_weights == 1).all()
    )

    # The losses see exactly the pasted boxes: without them the regression losses are zero, yet
    # back-propagate.
    sample.extras.clear()
    alone = core.run_student(core.student_views(batch, some_labels(), context)).unlabeled
    losses = core._detection_losses(alone)
    assert losses["loss_box_reg"].item() == 0 and losses["loss_rpn_loc"].item() == 0
    assert losses["loss_cls"].item() > 0
    sum(losses.values()).backward()


def test_statistics_by_hand() -> None:
    built = method(config(BETA=1.0), [labeled_record([0, 0, 0, 1]), labeled_record([0])])
    assert built.recall()[:2].tolist() == [0, 0] and built.recall()[2].isnan()
    assert built.probabilities().tolist() == [0.5, 0.5, 0.0]
    box = np.array([[1.0, 1, 5, 5]])
    for image, label in ((0, 0), (1, 0), (2, 2)):
        built.pseudo_bank.replace(
            pack_labels(image, (64, 64), box, np.array([label]), np.array([0.9]))
        )
    # r = 3 visited / 2 labelled: class 0: 2 / (1.5 * 4), class 1: 0; class 2 has crops and no
    # ground truth: left out.
    assert built.recall()[:2].tolist() == pytest.approx([1 / 3, 0])
    assert built.sizes().tolist() == [6, 1, 1]
    assert built.probabilities().tolist() == pytest.approx([1e-3 / 1.001, 1 / 1.001, 0])
    by = {
        name: method(config(CLASS_SAMPLING=name), [labeled_record([0, 0, 1])])
        for name in ("uniform", "instances")
    }
    assert by["uniform"].probabilities().tolist() == [0.5, 0.5, 0]
    assert by["instances"].probabilities().tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert method(config()).probabilities().tolist() == [0, 0, 0]
    pseudo_only = method(config(BANKS=("pseudo",)), [labeled_record([0, 1])])
    assert pseudo_only.sizes().tolist() == [0, 0, 0]


def test_snapshot_period_and_resume_before_the_first() -> None:
    built = method(config(SNAPSHOT_PERIOD=10), [labeled_record([0, 1])])
    first = built.view_transform().probabilities
    assert built.snapshot(10) is None  # nothing visited: burn-in
    built.pseudo_bank.replace(
        pack_labels(3, (64, 64), np.array([[1.0, 1, 5, 5]]), np.array([0]), np.array([0.9]))
    )
    assert built.snapshot(11) is None
    arrays = built.snapshot(20)
    assert arrays is not None and arrays["images"].tolist() == [3]
    assert arrays["probabilities"].sum() == pytest.approx(1)
    other = method(config(SNAPSHOT_PERIOD=10), [labeled_record([0, 1])])
    other.load_state_dict(built.state_dict())
    again = other.snapshot(20)
    assert again is not None and all((arrays[key] == again[key]).all() for key in arrays)
    assert (other.view_transform().probabilities == first).all()


def test_a_checkpoint_of_more_images_is_refused() -> None:
    built = method(config())
    built.pseudo_bank.replace(
        pack_labels(3, (64, 64), np.array([[1.0, 1, 5, 5]]), np.array([0]), np.array([0.9]))
    )
    with pytest.raises(UserError, match="resume with the same datasets"):
        method(config(), unlabeled=3).load_state_dict(built.state_dict())


@pytest.mark.parametrize(
    "keys",
    [
        {"BANKS": ("labelled",)},
        {"BANKS": ()},
        {"REFRESH": "daily"},
        {"REFRESH_PERIOD": 0},
        {"SNAPSHOT_PERIOD": 0},
        {"CLASS_SAMPLING": "random"},
        {"BETA": -1.0},
        {"PASTE_ON": ("weak",)},
        {"MIN_INSTANCES": -1},
        {"MAX_INSTANCES": 0},
        {"SCALE": (0.0, 1.0)},
        {"SCALE": (2.0, 1.0)},
        {"FLIP_PROB": 1.5},
        {"MIN_VISIBLE_FRACTION": 1.0},
    ],
)
def test_bad_keys_are_refused_in_one_line(keys: Dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"SSOD.CROP_BANK.{list(keys)[0]}") as error:
        build_methods(config(**keys))
    assert "\n" not in str(error.value)


def test_pasting_on_unlabelled_images_needs_some() -> None:
    with pytest.raises(UserError, match="PASTE_ON"):
        method(config(), [labeled_record([0])], unlabeled=0)


# ---------------------------------------------------------------- whole runs


@pytest.mark.trains
def test_run_writes_statistics_and_pictures(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold", "CropBank"))
    cfg.merge_from_list(
        ["SOLVER.MAX_ITER", 20, "SSOD.SCORE_THRESHOLD", 0.05, "SSOD.SNAPSHOT_DELAY", 2]
    )
    cfg.merge_from_list(["SSOD.CROP_BANK.SNAPSHOT_PERIOD", 4, "SSOD.VIS_PERIOD", 20])
    trainer = train(cfg)
    bank = trainer.core.methods["CropBank"].pseudo_bank
    assert bank.visited == 12 and bank.class_counts.sum() > 0
    latest = trainer.storage.latest()
    for name in CLASSES:
        assert all(f"crop_bank/{what}/{name}" in latest for what in ("pseudo_recall", "mu", "size"))
    assert latest["crop_bank/images_visited"][0] == 12
    share = latest["crop_bank/foreground_share/unlabeled"][0]
    assert latest["crop_bank/foreground_share_without_pasted/unlabeled"][0] <= share <= 1
    # Nothing is pasted on labelled images: their share is the ground truth's (Fig. 5a).
    truth = latest["crop_bank/foreground_share/labeled"][0]
    assert latest["crop_bank/foreground_share_without_pasted/labeled"][0] == truth > 0
    assert "crop_bank/kl_pseudo_truth" in latest
    index = json.loads((tmp_path / "run" / "crop_bank" / "index.json").read_text())
    assert index["step"] == 20 and all(
        row["pasted"] == row["regress"] > 0 for row in index["images"]
    )
    section = CropBank.report_section(load_runs([str(tmp_path / "run")])[0])
    assert section is not None and section.html.count("data:image/jpeg") == len(index["images"])
    for title in (
        "Pseudo recall",
        "Probability",
        "Instances of each class",
        "Foreground share",
        "KL(",
    ):
        assert title in section.html
    (tmp_path / "run" / "crop_bank" / "0.jpg").unlink()
    assert CropBank.report_section(load_runs([str(tmp_path / "run")])[0]) is not None


def test_report_of_a_run_without_anything(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("VERSION: 2")
    assert CropBank.report_section(load_runs([str(tmp_path)])[0]) is None


@pytest.mark.trains
def test_supervised_run_with_pasted_labels(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.merge_from_list(["SSOD.METHODS", ("CropBank",), "SSOD.CROP_BANK.PASTE_ON", ("labeled",)])
    cfg.merge_from_list(["SSOD.CROP_BANK.CLASS_SAMPLING", "uniform", "SOLVER.MAX_ITER", 5])
    cfg.merge_from_list(["SSOD.VIS_PERIOD", 4])
    trainer = train(cfg)
    batch = trainer.core.last_batch
    assert not batch.unlabeled
    for sample in batch.labeled:
        count = len(sample.extras["CropBank"].boxes)
        assert 1 <= count <= 5 and len(sample.strong_instances) >= count
    index = json.loads((tmp_path / "run" / "crop_bank" / "index.json").read_text())
    assert all(row["labels"] == row["regress"] for row in index["images"])


@pytest.mark.trains
def test_sweep_labels_everything_and_resumes(squares: Path, tmp_path: Path) -> None:
    def swept(folder: str) -> CfgNode:
        cfg = with_squares(tiny_cfg(), squares, tmp_path / folder, ("ScoreThreshold", "CropBank"))
        cfg.merge_from_list(
            ["SOLVER.MAX_ITER", 6, "SSOD.SCORE_THRESHOLD", 0.05, "SSOD.SNAPSHOT_DELAY", 2]
        )
        cfg.merge_from_list(["SSOD.CROP_BANK.REFRESH", "sweep", "SSOD.CROP_BANK.REFRESH_PERIOD", 3])
        cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2])
        return cfg

    whole = train(swept("whole"))
    bank = whole.core.methods["CropBank"].pseudo_bank
    assert bank.visited == 12 and bank.class_counts.sum() > 12
    # Sweeps at steps 2 and 5, published after these steps.
    entries = whole.board.state_dict()["entries"]["CropBank"]
    assert [row[:2] for row in entries] == [[0, 5], [1, 8]]
    cfg = swept("parts")
    train(cfg)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000003.pth")
    assert digest(state_of(train(cfg, resume=True))) == digest(state_of(whole))


def test_a_crop_without_a_label_still_hides() -> None:
    """With MIN_VISIBLE_FRACTION a crop loses its label that later ones mostly cover; its pixels are
    there all the same.
    """
    cfg = config(MIN_VISIBLE_FRACTION=0.5)
    built = method(cfg, [labeled_record([0])])
    own = some_labels([[0.0, 0, 10, 10]])
    kept = pasted([[40.0, 40, 60, 60]])
    assert len(run_views(built, own, kept)) == 2
    covering = torch.tensor([[0.0, 0, 10, 6], [40, 40, 60, 60]])
    found = run_views(built, own, replace(kept, covering=covering))
    assert found.gt_boxes.tensor.tolist() == [[40.0, 40, 60, 60]]  # 40 % of the other is left
