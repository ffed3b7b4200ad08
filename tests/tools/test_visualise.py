"""The pictures show the labels of the dataset, the loader and the models, at the right place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.report.contact_sheet import Panel, captioned, contact_sheet, draw_panel, grid, single_size
from ssod.tools import visualise
from ssod.tools.visualise import load_dataset, main, model_classes, spread, view_cells
from ssod.utils.draw import PALETTE, draw_boxes
from steps import core_of
from tiny import tiny_cfg, with_squares
from toy_method import Toy


@pytest.fixture
def cfg(squares: Path, tmp_path: Path) -> CfgNode:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    cfg.SSOD.DATASETS.squares_unlabeled.TRUTH = str(squares / "unlabeled.json")
    cfg.SSOD.DATASETS.squares_folder = CfgNode(
        {"FORMAT": "folder", "IMAGES": str(squares / "test")}
    )
    return cfg


@pytest.fixture
def command(cfg: CfgNode, tmp_path: Path) -> Any:
    (tmp_path / "c.yaml").write_text(cfg.dump())

    def run(dataset: str, *arguments: str) -> None:
        main(["--config-file", str(tmp_path / "c.yaml"), "--dataset", dataset, *arguments])

    return run


def save_teacher(cfg: CfgNode, folder: Path) -> str:
    core = core_of(cfg)
    checkpointer = SSODCheckpointer(core.student, str(folder))
    return checkpointer.save_weights("teacher", core.teacher.state_dict())


def test_spread() -> None:
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(3, 16) == [0, 1, 2]
    assert spread(0, 4) == []


def test_boxes_and_tags_are_where_they_should_be() -> None:
    image = torch.zeros(3, 300, 300, dtype=torch.uint8)
    box = torch.tensor([[100.0, 100.0, 200.0, 250.0]])
    drawn = draw_boxes(image, box, torch.tensor([1]), ["a", "b"])
    assert tuple(drawn[200, 100]) == PALETTE[1] == tuple(drawn[250, 150])
    assert not drawn[150:240, 110:190].any()  # nothing inside
    assert tuple(drawn[88, 101]) == PALETTE[1]  # the tag, above
    edge = torch.tensor([[290.0, 0.0, 299.0, 20.0]])
    drawn = draw_boxes(image, edge, torch.tensor([0]), ["a long name"], scores=torch.tensor([0.5]))
    assert (drawn[:15, 150:300] == PALETTE[0]).all(axis=2).sum() > 300  # moved into the image


def test_panels_are_resized_with_their_boxes() -> None:
    box, label = torch.tensor([[8.0, 4.0, 24.0, 28.0]]), torch.tensor([2])
    panel = Panel(torch.zeros(3, 32, 64, dtype=torch.uint8), "caption", box, label, names="xyz")
    drawn = draw_panel(panel, 640)
    assert drawn.shape == (320 + 20, 640, 3)
    assert tuple(drawn[200, 80]) == PALETTE[2] == tuple(drawn[200, 240])
    assert single_size(panel) == 64 * 13
    assert single_size(Panel(torch.zeros(3, 600, 900, dtype=torch.uint8), "")) == 900


def test_captions_are_shortened_to_fit() -> None:
    image = np.zeros((10, 80, 3), np.uint8)
    long, short = captioned(image, "a/very/long/name/of/a/file.png"), captioned(image, "x.png")
    assert long.shape == short.shape == (30, 80, 3)
    assert (long[:, -2:][10:] == 245).all()  # a margin is left


def test_grid() -> None:
    one, two = np.full((10, 20, 3), 1, np.uint8), np.full((12, 16, 3), 2, np.uint8)
    sheet = grid([one, two, one], columns=2, margin=4)
    assert sheet.shape == (4 + 12 + 6 + 12 + 4, 4 + 20 + 6 + 20 + 4, 3)
    assert (sheet[4:14, 4:24] == 1).all() and (sheet[4:16, 30:46] == 2).all()
    assert (sheet[22:32, 4:24] == 1).all() and (sheet[22:, 30:] == 245).all()
    panel = Panel(torch.zeros(3, 64, 64, dtype=torch.uint8), "")
    assert contact_sheet([[panel, panel]] * 3, longest=100, width=500).shape[1] == 2 * 206 + 6 + 12


def test_labels_of_every_kind_of_dataset(cfg: CfgNode, squares: Path) -> None:
    records, names = load_dataset(cfg, "squares_labeled")
    assert names == ["red", "green", "blue"] and len(records) == 8
    hidden, _ = load_dataset(cfg, "squares_unlabeled")
    assert len(hidden) == 12 and all(record["annotations"] for record in hidden)  # its TRUTH
    plain, names = load_dataset(cfg, "squares_folder")
    assert len(plain) == 6 and names == [] and "annotations" not in plain[0]
    assert model_classes(cfg, names) == ["red", "green", "blue"]
    cell = visualise.label_cells((records, ["red", "green", "blue"]))(records[0], 0)
    content = json.loads((squares / "labeled.json").read_text())
    expected = [a for a in content["annotations"] if a["image_id"] == 1]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in expected)]
    assert cell[0].boxes.tolist() == corners
    assert cell[0].classes.tolist() == [a["category_id"] - 1 for a in expected]
    read = cv2.imread(str(squares / "labeled" / "000.png"))
    assert np.array_equal(cell[0].image.permute(1, 2, 0).numpy(), read)


def test_views_are_the_mappers_and_deterministic(cfg: CfgNode) -> None:
    loaded = load_dataset(cfg, "squares_labeled")
    first, second = (view_cells(cfg, loaded)(loaded[0][3], 3) for _ in range(2))
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, second))
    weak, strong = first
    assert torch.equal(weak.boxes, strong.boxes) and len(weak.boxes) > 0
    assert not torch.equal(weak.image, strong.image)
    cfg.INPUT.FORMAT = "RGB"
    assert torch.equal(view_cells(cfg, loaded)(loaded[0][3], 3)[0].image, weak.image)  # BGR again


def test_views_show_what_is_pasted(cfg: CfgNode) -> None:
    cfg.SSOD.METHODS = ("ScoreThreshold", "CropBank")
    cfg.SSOD.CROP_BANK.PASTE_ON = ("labeled", "unlabeled")
    loaded = load_dataset(cfg, "squares_labeled")
    cells = [view_cells(cfg, loaded)(loaded[0][index], index) for index in range(4)]
    assert sum(len(strong.boxes) for _, strong in cells) > sum(len(weak.boxes) for weak, _ in cells)
    loaded = load_dataset(cfg, "squares_unlabeled")  # has a TRUTH, which training does not see
    weak, strong = view_cells(cfg, loaded, "unlabeled")(loaded[0][0], 0)
    assert len(weak.boxes) == 0 and len(strong.boxes) > 0
    assert f"{len(strong.boxes)} box" in strong.caption


def test_pseudo_labels_are_the_methods_or_all_above_a_score(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Instances((64, 64))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 5.0, 9.0, 9.0]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.6]), torch.tensor([2, 0])
    label = TeacherStudent.label

    def labelled(self: TeacherStudent, samples: List[Any]) -> Any:
        assert samples[0].instances is None  # the truth is for the picture only
        outputs = label(self, samples)
        outputs.detections = [found]
        return outputs

    monkeypatch.setattr(TeacherStudent, "label", labelled)
    weights = save_teacher(cfg, tmp_path)
    loaded = load_dataset(cfg, "squares_unlabeled")
    pseudo, truth = visualise.pseudo_cells(cfg, loaded, weights, None)(loaded[0][0], 0)
    assert pseudo.boxes.tolist() == [[1.0, 2.0, 30.0, 40.0]] and pseudo.classes.tolist() == [2]
    assert len(truth.boxes) == len(loaded[0][0]["annotations"]) and truth.scores is None
    pseudo, _ = visualise.pseudo_cells(cfg, loaded, weights, 0.5)(loaded[0][0], 0)
    assert pseudo.classes.tolist() == [2, 0]


def test_command_for_each_kind(
    command: Any, cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = save_teacher(cfg, tmp_path)
    sheet, folder = tmp_path / "new" / "sheet.png", tmp_path / "files"
    command("squares_test", "--output", str(sheet), "--num", "4")
    assert capsys.readouterr().out.strip() == str(sheet)
    assert cv2.imread(str(sheet)).shape == (20 + 360 + 12, 4 * 366 - 6 + 12, 3)
    command("squares_folder", "--what", "views", "--output", str(folder), "--num", "2")
    first = folder / "000_000_views.png"
    assert cv2.imread(str(first)).shape == (448 + 20, 2 * 448 + 6, 3)
    command(
        "squares_test", "--what", "detections", "--weights", weights, "--score", "0.01",
        "--output", str(tmp_path / "d.jpg"),
    )  # fmt: skip
    assert cv2.imread(str(tmp_path / "d.jpg")) is not None
    command("squares_folder", "--what", "pseudo", "--weights", weights, "--output", str(tmp_path))
    assert len(list(tmp_path.glob("*_pseudo.png"))) == 6


def test_damaged_images_are_skipped_and_listed(
    command: Any, cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mixed").mkdir()
    cv2.imwrite(str(tmp_path / "mixed" / "good.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "mixed" / "bad.png").write_bytes(b"no image")
    override = ("SSOD.DATASETS.squares_folder.IMAGES", str(tmp_path / "mixed"))
    command("squares_folder", "--output", str(tmp_path / "out.png"), *override)
    captured = capsys.readouterr()
    assert "skipped:" in captured.err and "bad.png" in captured.err
    assert (tmp_path / "out.png").exists()
    (tmp_path / "mixed" / "good.png").write_bytes(b"")
    with pytest.raises(UserError, match="No image of squares_folder could be read"):
        command("squares_folder", "--output", str(tmp_path / "no.png"), *override)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("squares_tst",), "did you mean 'squares_test'"),
        (("squares_test", "--what", "pseudo"), "--what pseudo needs --weights"),
        (("squares_test", "--weights", "x.pth"), "leave --weights out"),
        (("squares_test", "--num", "0"), "at least 1"),
        (("squares_test", "--score", "2"), "between 0 and 1"),
        (("squares_test", "--output", "a.gif"), "a .png or .jpg file, or a folder"),
        (("squares_test", "--model", "student"), "--model is for"),
        (("squares_test", "--what", "detections", "--weights", "x.pth"), "x.pth does not exist"),
    ],
)
def test_wrong_inputs(command: Any, arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        command(*arguments)
    assert "\n" not in str(caught.value)


def test_teacher_that_does_not_fit(cfg: CfgNode, tmp_path: Path) -> None:
    weights, loaded = save_teacher(cfg, tmp_path), load_dataset(cfg, "squares_unlabeled")
    wide = cfg.clone()
    wide.MODEL.ROI_BOX_HEAD.FC_DIM = 48
    with pytest.raises(UserError, match="teacher.pth does not fit the config"):
        visualise.pseudo_cells(wide, loaded, weights, None)
    none = cfg.clone()
    none.SSOD.METHODS = ()
    with pytest.raises(UserError, match="SSOD.METHODS is empty"):
        visualise.pseudo_cells(none, loaded, weights, None)
    toy = cfg.clone()
    Toy.add_config(toy)
    toy.SSOD.METHODS = ("ScoreThreshold", "Toy")
    with pytest.raises(UserError, match="teacher.pth lacks the heads of Toy"):
        visualise.pseudo_cells(toy, loaded, weights, None)
