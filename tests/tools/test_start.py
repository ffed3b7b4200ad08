"""From a folder, as each tool leaves it, to a config that trains."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest

from layouts import (
    WRITERS,
    Writer,
    coco,
    labelimg_voc,
    labelimg_yolo,
    labelme,
    roboflow_yolo,
    save_image,
)
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.engine.setup import load_config, run_cli
from ssod.own_data.start import name_of
from ssod.tools.start import main

TRUTH: Dict[str, Any] = {
    f"{i:02d}.jpg": [("dog" if i % 3 else "cat", 10.0, 20.0, 40.0, 60.0)] for i in range(10)
}
TRUTH.update({f"u{i}.jpg": None for i in range(6)})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_every_layout(writer: Writer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer(here / "my photos", TRUTH)
    before = {p: p.stat().st_mtime_ns for p in (here / "my photos").rglob("*")}
    main(["my photos", "--device", "cpu"])
    out = capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (here / "my photos").rglob("*")} == before
    command = shlex.split(out.strip().splitlines()[-1])
    assert command[-2:] == ["--config-file", "my_photos_ssod/config.yaml"]
    assert Path(command[0]).exists() and Path(command[1]).exists()
    cfg = load_config(command[-1])
    assert check_classes(cfg) == ["cat", "dog"]
    labelled, unlabelled = load_labeled(cfg), load_unlabeled(cfg)
    # If the data names train and val, these folders of the tools share their images.
    assert len(labelled) == (10 if "as named in the data" in out else 8)
    assert sorted(Path(r["file_name"]).name for r in unlabelled) == [f"u{i}.jpg" for i in range(6)]
    assert "annotations" not in unlabelled[0]
    assert all(Path(r["file_name"]).is_file() for r in labelled + unlabelled)
    assert labelled[0]["annotations"][0]["bbox"] == pytest.approx([10, 20, 30, 40], abs=1e-2)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2 and cfg.OUTPUT_DIR == "output/my_photos"
    assert (here / "my_photos_ssod" / "contact_sheet.jpg").stat().st_size > 1000


def test_twice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelme(here / "set", TRUTH)
    main(["set"])
    main(["set"])  # the same again
    save_image(here / "set" / "new.jpg")
    error = failure(["set"], capsys)
    assert "unlabeled.json" in error or "config.yaml" in error
    assert "add --force to replace it" in error
    main(["set", "--force"])
    content = json.loads((here / "set_ssod" / "unlabeled.json").read_text())
    assert len(content["images"]) == 7


def failure(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_cli(lambda: main(arguments))
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelimg_voc(here / "a", TRUTH)
    save_image(here / "none" / "a.jpg")
    labelimg_voc(here / "one", {"a.jpg": TRUTH["00.jpg"], "b.jpg": None})
    labelimg_yolo(here / "nameless", TRUTH)
    (here / "nameless" / "classes.txt").unlink()
    (here / "empty").mkdir()
    for arguments, words in (
        (["nope"], "nope does not exist: name a folder"),
        (["a/00.xml"], "is a file: name a folder"),
        (["empty"], "no labels"),
        (["none"], "Label some of the images first"),
        (["one"], "label at least two"),
        (["nameless"], "add classes.txt with one name a line"),
        (["a", "--val-percent", "100"], "--val-percent 100"),
        (["a", "--weights", "x.pkl"], "x.pkl does not exist"),
        (["a", "--format", "yolo"], "This looks like FORMAT voc"),
        (["."], "the working directory is inside of ."),
        (["a", "--output", "a/out"], "--output a/out is inside of a"),
        (["a", "--classes", "cat"], "'dog', which is not in CLASSES"),
    ):
        assert words in failure(arguments, capsys)
        assert not list(here.glob("*_ssod"))
    main(["nameless", "--classes", "cat", "dog"])


def test_several_formats(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelimg_voc(here / "set", TRUTH)
    few = {name: TRUTH[name] for name in ("00.jpg", "01.jpg", "02.jpg")}
    labelme(here / "set", few)
    main(["set"])
    out = capsys.readouterr().out
    assert (
        "note: labelme labels 3 images, voc 10: voc is used; --format labelme takes the other"
        in out
    )
    main(["set", "--format", "labelme", "--force"])
    assert "16 images, 3 of them labelled (labelme)" in capsys.readouterr().out


def test_splits_of_the_data_are_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {name: TRUTH[name] for name in list(TRUTH)[:6]}
    second = {f"v{name}": TRUTH[name] for name in list(TRUTH)[6:10]}
    roboflow_yolo(here / "set", first)
    roboflow_yolo(here / "other", second)
    shutil.move(here / "other" / "train", here / "set" / "valid")
    text = (here / "set" / "data.yaml").read_text()
    (here / "set" / "data.yaml").write_text(text.replace("val: ../train", "val: ../valid"))
    main(["set"])
    assert "6 images train, 4 validate (as named in the data)" in capsys.readouterr().out


def test_all_images_labelled(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco(here / "set", {name: boxes for name, boxes in TRUTH.items() if boxes})
    (here / "set" / "x.HEIC").write_bytes(b"1")
    main(["set"])
    assert "1 .heic files are left out: convert them" in capsys.readouterr().out
    cfg = load_config("set_ssod/config.yaml")
    assert tuple(cfg.SSOD.METHODS) == ("CropBank",) and tuple(cfg.DATASETS.UNLABELED) == ()


def test_make_start(here: Path) -> None:
    """The check of IMAGES comes before anything is installed."""
    root = Path(__file__).resolve().parents[2]
    if shutil.which("make") is None:
        pytest.skip("needs make")
    make = ["make", "-C", str(root), "--dry-run", "start"]
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "IMAGES")}
    options: Dict[str, Any] = {"capture_output": True, "text": True, "env": env}
    done = subprocess.run([*make, f"IMAGES={here}"], **options)
    assert f'-m ssod.tools.start "{here}"' in done.stdout
    done = subprocess.run(["make", "-C", str(root), "start"], **options)
    assert done.returncode and "make start IMAGES=folder" in done.stderr


def test_names() -> None:
    assert name_of("My Photos (1)/") == "my_photos_1"
    assert name_of("/") == "images"


@pytest.mark.trains
def test_the_config_trains(here: Path) -> None:
    pytest.importorskip("timm")
    from ssod.engine.trainer import SSODTrainer

    labelimg_voc(here / "set", TRUTH)
    main(["set", "--device", "cpu"])
    short = "SOLVER.MAX_ITER 2 SSOD.BURN_IN_STEPS 1 TEST.EVAL_PERIOD 0 INPUT.MIN_SIZE_TEST 64"
    cfg = load_config("set_ssod/config.yaml", short.split())
    cfg.freeze()
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert (here / "output" / "set" / "teacher_final.pth").is_file()
