"""`doctor` and `splits` on labels with masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssod.data.declarations import parse_declaration
from ssod.data.masks import decode_mask
from ssod.errors import UserError
from ssod.own_data.choose import read_with_masks
from ssod.tools import doctor, make_splits


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in LabelMe's format, each with a triangle; the first has a rectangle too."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        points = [[4, 4], [24, 4], [4, 24]]
        shapes = [{"label": "cell", "points": points, "shape_type": "polygon"}]
        if not number:
            corners = [[2, 2], [9, 9]]
            shapes.append({"label": "cell", "points": corners, "shape_type": "rectangle"})
        content = {"shapes": shapes, "imagePath": f"{number}.png"}
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


def test_doctor_reports_masks(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(photos), "--sheet", str(tmp_path / "sheet.jpg")]
    doctor.main(arguments)
    assert "masks  " not in capsys.readouterr().out
    doctor.main([*arguments, "--masks"])
    out = capsys.readouterr().out
    assert "masks       4; they fill" in out and "1 without a mask" in out
    assert (tmp_path / "sheet.jpg").exists()


def test_splits_keep_masks_of_other_formats(photos: Path, tmp_path: Path) -> None:
    for name, flags, boxes in (("plain", [], 5), ("masked", ["--masks"], 4)):
        prefix = str(tmp_path / name)
        make_splits.main(
            ["--data", str(photos), "--percent", "50", "--truth", "--prefix", prefix, *flags]
        )
        files = [f"{prefix}_50pct_fold0_{part}.json" for part in ("labeled", "unlabeled_truth")]
        found = [a for f in files for a in json.loads(Path(f).read_text())["annotations"]]
        assert len(found) == boxes
        assert all(("segmentation" in a) == bool(flags) for a in found)
    assert abs(int(decode_mask(found[0]["segmentation"]).sum()) - 200) < 25


def test_formats_without_masks_say_so() -> None:
    with pytest.raises(UserError, match="of a format without masks"):
        read_with_masks(parse_declaration("x", {"FORMAT": "folder", "IMAGES": "somewhere"}))
    with pytest.raises(SystemExit):
        make_splits.main(["--coco", "a.json", "--percent", "5", "--prefix", "x", "--masks"])
