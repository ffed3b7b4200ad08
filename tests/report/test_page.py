"""The page: which sections it has, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from plotly.offline import get_plotlyjs

from report_rig import write_run
from ssod.errors import UserError
from ssod.methods import get_method
from ssod.plotting.run_data import RunData, load_runs
from ssod.plotting.section import Section
from ssod.report.class_histogram import count_boxes
from ssod.report.gallery import _detections
from ssod.report.page import build_page, packed_plotly


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_everything_in_one_file(squares: Path, tmp_path: Path) -> None:
    page = build_page(load_runs([write_run(tmp_path, squares, "one", ["ScoreThreshold"])]))
    assert titles(page) == [
        "Runs",
        "Warnings",
        "Average precision",
        "AP per class",
        "Pseudo-labels",
        "What the teacher teaches",
        "Detections",
        "Losses",
        "Skipped image files",
    ]
    # One file: no address but its own anchors, and one copy of the library.
    assert set(re.findall(r'(?:src|href)="([^#"]{1,11})', page)) == {"data:image/"}
    assert not re.search(r"@import|url\(", page) and page.count('id="library"') == 1
    assert len(page) < 4_000_000  # of which the library is 2
    # One unlabelled image and six test images, each beside its truth.
    assert page.count('src="data:image/jpeg;base64,') == 2 * (1 + 6)
    assert "one: 1" in page and "truth: 2" in page  # the low-score detection is not counted
    assert "the teacher sees &lt;almost&gt; nothing" in page and "bad.png: broken" in page
    assert "KL 0.125" in page
    anchors = re.findall(r'<section id="([^"]*)"', page)
    assert len(set(anchors)) == len(anchors)
    assert re.findall(r'href="#([^"]*)"', page) == ["content", *anchors]


def test_skipped_boxes_are_counted_and_listed(squares: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path, squares, "one", [])
    rows = [{"label": f"annotation {i}", "reason": "no <area>", "image": "a.png"} for i in range(3)]
    rows.append({"label": "annotation 9", "reason": "outside", "image": None})
    (Path(folder) / "skipped_boxes.json").write_text(json.dumps({"few.json": rows}))
    page = build_page(load_runs([folder]))
    assert titles(page)[-1] == "Skipped boxes" and "one: 4 boxes of few.json" in page
    assert "3 no &lt;area&gt;" in page and "annotation 9: outside" in page


def test_class_histogram(squares: Path, tmp_path: Path) -> None:
    """Once for each choice of data; nothing where the files are not at hand."""
    runs = load_runs([write_run(tmp_path, squares, name, ["ScoreThreshold"]) for name in "abc"])
    assert "Data" not in titles(build_page(runs))
    images = {"FORMAT": "coco", "IMAGES": str(squares / "labeled")}
    few = {**images, "ANNOTATIONS": str(squares / "labeled.json")}
    many = {**images, "ANNOTATIONS": str(squares / "labeled_empty.json")}
    for run in runs[:2]:
        run.config["DATASETS"].update({"TRAIN": ["histogram_few"], "UNLABELED": ["histogram_many"]})
        run.config["SSOD"]["DATASETS"] = {
            "histogram_few": few,
            "histogram_many": {**many, "TRUTH": str(squares / "labeled.json")},
        }
    boxes = Counter(
        a["category_id"] for a in json.loads((squares / "labeled.json").read_text())["annotations"]
    )
    labeled, unlabeled = count_boxes(runs[0])
    assert sorted(labeled.values()) == sorted(boxes.values()) and unlabeled == labeled
    page = build_page(runs[:2])
    assert "Data" in titles(page) and page.count(">histogram_few: boxes of each class") == 1
    assert f"labelled: {sum(boxes.values())} boxes" in page
    runs[2].config["DATASETS"].update({"TRAIN": ["histogram_few"], "UNLABELED": []})
    runs[2].config["SSOD"]["DATASETS"] = {"histogram_few": few}
    assert build_page(runs).count(">histogram_few: boxes of each class") == 1
    assert build_page(runs[2:]).count(">histogram_few: boxes of each class") == 1
    runs[1].config["SSOD"]["DATASETS"]["histogram_many"] = many
    assert build_page(runs[:2]).count(">histogram_few: boxes of each class") == 2


def test_several_runs_share_their_charts(squares: Path, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, squares, "a", []),
        write_run(tmp_path, squares, "b", ["ScoreThreshold"]),
    ]
    page = build_page(load_runs(folders))
    assert page.count("<figcaption>AP on page_test</figcaption>") == 1
    assert "a, teacher" in page and "b, student" in page
    # Six test images: two runs and the truth; one unlabelled image: one run and the truth.
    assert page.count('src="data:image/jpeg;base64,') == 6 * 3 + 2


def test_run_without_any_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "young"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"iteration": 19, "total_loss": 1.0}\n{"iter')
    page = build_page(load_runs([str(folder)]))
    assert titles(page) == ["Runs", "Average precision", "Losses"]
    assert "No evaluation yet." in page


def test_run_that_has_just_started(tmp_path: Path) -> None:
    """Without a chart the page does not carry the library."""
    (tmp_path / "config.yaml").write_text("SOLVER: {MAX_ITER: 10}")
    page = build_page(load_runs([str(tmp_path)]))
    assert titles(page) == ["Runs", "Average precision"]
    assert 'id="library"' not in page


def test_everything_is_escaped(squares: Path, tmp_path: Path) -> None:
    """Names of runs, classes and files, and what the log says."""
    evil = "<script>alert(1)</script>"
    run = load_runs([write_run(tmp_path, squares, "one", ["ScoreThreshold"])])[0]
    run.name = evil
    run.log.append(("11/21 07:30:36", "ssod.x", "WARNING", evil))
    run.config["DATASETS"]["TRAIN"] = [evil]
    for record in run.quality.values():
        record["classes"] = [evil, evil + "2"]
        for labels in ("selected", "candidates"):
            record[labels]["per_class"] = {evil: record[labels]["per_class"]["red"]}
        record["images"].append({**record["images"][0], "file_name": f"/gone/{evil}.png"})
    page = build_page([run])
    assert "alert(1)" in page and evil not in page and "</script>alert" not in page


def test_plotly_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("SOLVER: {MAX_ITER: 10}")
    packed_plotly.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match="pip install plotly"):
        build_page(load_runs([str(tmp_path)]))


def test_library_is_the_installed_one() -> None:
    code = gzip.decompress(base64.b64decode(packed_plotly())).decode()
    assert code == get_plotlyjs()


def test_pictures_that_are_gone(squares: Path, tmp_path: Path) -> None:
    folder = Path(write_run(tmp_path, squares, "one", ["ScoreThreshold"]))
    (folder / "image.png").unlink()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["SSOD"]["DATASETS"]["page_test"]["ANNOTATIONS"] = "gone.json"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    page = build_page(load_runs([str(folder)]))
    assert "cannot be read here" in page and "gone.json does not exist" in page


def test_methods_add_sections(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def section(cls: Any, run: RunData) -> Section:
        return Section("Thresholds", f"<p>{run.series('total_loss')}</p>")

    monkeypatch.setattr(get_method("ScoreThreshold"), "report_section", classmethod(section))
    folders = [write_run(tmp_path, squares, n, ["ScoreThreshold", "NotHere"]) for n in "ab"]
    page = build_page(load_runs(folders))
    assert titles(page)[-3:-1] == ["Thresholds (a)", "Thresholds (b)"]
    assert "[(20, 2.0), (40, 2.0)]" in page


def test_detections_are_compared_on_the_same_images(squares: Path, tmp_path: Path) -> None:
    """A finished run has detections on its test set, one that goes on only on the validation
    set.
    """
    folders = [Path(write_run(tmp_path, squares, name, [])) for name in "ab"]
    for folder in folders:
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("VAL: []", "VAL: [page_val]"))
        found = folder / "inference" / "teacher"
        (found / "page_val").mkdir()
        (found / "page_val" / "coco_instances_results.json").write_text("[]")
    runs = load_runs([str(folder) for folder in folders])
    assert [name for _, name, _ in _detections(runs)] == ["page_test", "page_test"]
    half = folders[1] / "inference" / "teacher" / "page_test" / "coco_instances_results.json"
    half.write_text('[{"image_id"')
    assert [name for _, name, _ in _detections(runs)] == ["page_val", "page_val"]
    assert [name for _, name, _ in _detections(runs[:1])] == ["page_test"]


def test_activity_of_each_method(squares: Path, tmp_path: Path) -> None:
    folders = [write_run(tmp_path, squares, n, ["ScoreThreshold", "NotHere"]) for n in "ab"]
    assert "What the methods change" not in titles(build_page(load_runs(folders)))
    for folder, value in zip(folders, (0.0, 2.5)):
        with open(Path(folder) / "metrics.json", "a") as file:
            for iteration in (19, 39):
                line = {"iteration": iteration, "activity_mean/ScoreThreshold": value}
                line["activity_mean/NotHere"] = 1.0
                file.write(json.dumps(line) + "\n")
    page = build_page(load_runs(folders))
    assert "What the methods change" in titles(page)
    assert "ScoreThreshold: labels selected, per image" in page and "NotHere: activity" in page
    assert "Changed nothing so far: ScoreThreshold (a)." in page
