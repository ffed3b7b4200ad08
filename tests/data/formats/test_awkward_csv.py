"""CSV files that are not as the manual says."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from awkward_files import problem, read
from layouts import save_image


@pytest.mark.parametrize(
    "lines",
    [
        ["image,x1,y1,x2,y2,label", "a.jpg,10,20,30,40,cat"],
        ["Image Name;X Min;Y Min;X Max;Y Max;Class Name", "a.jpg;10,0;20,0;30,0;40,0;cat"],
        ["path\tleft\ttop\twidth\theight\tcategory", "a.jpg\t10\t20\t20\t20\tcat"],
        ["ImageID,Source,LabelName,XMin,XMax,YMin,YMax", "a,x,cat,0.1,0.3,0.25,0.5"],
        ["image_id,width,height,bbox,class", 'a,100,80,"[10, 20, 20, 20]",cat'],
        ["x/a.jpg,10,20,30,40,cat"],
        ["TRAIN,gs://b/a.jpg,cat,0.1,0.25,,,0.3,0.5,,"],
        ["filename,xmin,ymin,xmax,ymax,class", "a.jpg,30,40,10,20,cat"],  # reversed
        ["\ufefffilename,xmin,ymin,xmax,ymax,class", "", "a.jpg,10,20,30,40, cat "],
    ],
)
def test_csv_columns(lines: List[str], tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    node = {"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "t.csv")}
    assert read(node) == {"a.jpg": [("cat", 10, 20, 30, 40)]}


@pytest.mark.parametrize(
    "text, words",
    [
        ("filename,xmin,ymin,xmax,class\na.jpg,1,2,3,cat", "none is the box"),
        ("a,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4", "none is the image"),
        ("a.jpg,1,2,3", "has no header"),
        ("", "is empty"),
        ("filename,xmin,ymin,xmax,ymax\nb.jpg,1,2,3,4", "none of them for an image below"),
    ],
)
def test_csv_is_refused(text: str, words: str, tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text(text)
    assert words in problem({"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "t.csv")})


def test_csv_rows_that_are_no_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        save_image(tmp_path / f"{name}.jpg")
    lines = ["filename,x,y,w,h,set", "a.jpg,1,2,30,40,train", "a.jpg,1,2,-3,4,train"]
    lines += ["a.jpg,1,x,3,4,train", "b.jpg,,,,,train", "b.jpg,1,2,3,4,val", "a.jpg"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    node = {"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "t.csv"), "SPLIT": "train"}
    assert read(node) == {"a.jpg": [("object", 1, 2, 31, 42)], "b.jpg": []}
    assert "(1 no area, 1 not four finite numbers): line 3, line 4" in caplog.text
    assert "no rows of the split 'test'" in problem({**node, "SPLIT": "test"})
