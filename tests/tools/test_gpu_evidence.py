"""The GPU evidence command, on the CPU: parts that fail or take too long, the page, and the pieces
that are measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

from ssod.data.loader import PREFETCH_FACTOR
from ssod.data.snapshots import SnapshotBoard
from ssod.errors import UserError
from ssod.gpu_evidence import call_cost as call_cost_module
from ssod.gpu_evidence.page import markdown
from ssod.gpu_evidence.runner import Part, run_parts
from ssod.gpu_evidence.scenes import FULL, TINY, draw_set
from ssod.gpu_evidence.steps import CASES, SYSTEMS, TYPES, config_of, in_process
from ssod.gpu_evidence.variants import CHANNELS_LAST, VARIANTS, overlapped
from ssod.tools.gpu_evidence import build_parser, main, make_parts
from steps import batch, cfg_with, core_of

ROOT = Path(__file__).parents[2]
ROW = {
    **{"system": "A", "dtype": "bf16", "variant": "as it is", "workers": 12},
    "images_per_step": {"student_labeled": 16, "student_unlabeled": 8, "teacher": 8},
    **{"alone_seconds": 0.5, "alone_spread": [0.4, 0.6], "data_wait_seconds": 0.001},
    **{"peak_memory_bytes": 2**30, "pseudo_boxes_per_image": 4.0, "step_over_lower_bound": 1.25},
    "split_seconds": {"data": 0.01, "teacher": 0.1},
    "lower_bound_split_seconds": {"teacher": 0.2},
}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_that_fails_or_hangs_stops_no_other(tmp_path: Path) -> None:
    write = f"open({str(tmp_path / 'last.json')!r}, 'w').write('[1, 2]'); print('seen')"
    parts = [
        Part("tests", python("print('bad news'); raise SystemExit(3)"), 60),
        Part("slow", python("import time; time.sleep(600)"), 0.5),
        Part("last", python(write), 60, "last.json"),
    ]
    outcomes = run_parts(parts, str(tmp_path), 5, "typed")
    assert [o.state for o in outcomes] == ["failed (exit status 3)", "ended after 0 s", "ok"]
    assert outcomes[2].found == [1, 2]
    kept = json.loads((tmp_path / "evidence.json").read_text())
    assert kept["parts"][2]["tail"] == ["seen"]
    page = (tmp_path / "evidence.md").read_text()
    assert "    typed\n" in page and "bad news" in page


def _double(x: int) -> dict[str, int]:
    return {"found": 2 * x}


def _hang() -> None:
    time.sleep(600)


def _die() -> None:
    os._exit(7)


def _fail() -> None:
    raise MemoryError("3 GiB\nmore")


def test_cases_have_processes_of_their_own() -> None:
    assert in_process(_double, (4,), 60) == {"found": 8}
    assert in_process(_hang, (), 0.5) == {"error": "ended after 0 s"}
    assert in_process(_die, (), 60) == {"error": "exit status 7"}
    assert in_process(_fail, (), 60) == {"error": "MemoryError: 3 GiB"}


def test_call_cost_is_the_launch_over_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    seconds = {(1, 100): 0.02, (4, 100): 0.03, (8, 100): 0.05}
    monkeypatch.setattr(call_cost_module, "seconds_of_call", lambda b, s, n, r: seconds[n, s])
    monkeypatch.setattr(call_cost_module, "build_backbone", lambda cfg: torch.nn.Linear(1, 1))
    sizes = dataclasses.replace(TINY, call_cost_batches=tuple(seconds))
    found = call_cost_module.call_cost(sizes, "cpu")["bf16"]
    assert found["call_cost_pixels"] == pytest.approx(0.02 / (0.02 / 40_000))


def test_parts_without_time_are_left_out(tmp_path: Path) -> None:
    outcomes = run_parts([Part("late", python(""), 60)], str(tmp_path), 0.05, "")
    assert outcomes[0].state == "left out: no time was left"


def test_page_shows_rows_and_what_went_wrong() -> None:
    failed = {
        "system": "B",
        "dtype": "fp16",
        "variant": "compiled",
        "error": "OutOfMemoryError: 3 GiB",
    }
    steps = {"name": "steps", "state": "ok", "seconds": 1.0, "tail": ["x"]}
    cost = {"call_seconds": 0.002, "seconds_per_megapixel": 0.02, "call_cost_pixels": 100000.0}
    about = dict.fromkeys(("command", "device", "cores", "python", "torch", "cuda", "cudnn"), "1")
    page = markdown(
        {
            "machine": about,
            "parts": [
                {**steps, "found": {"rows": [ROW, failed]}},
                {**steps, "name": "call_cost", "found": {"bf16": cost}},
            ],
        }
    )
    assert "500 (400 to 600)" in page and "1.250" in page and "1024" in page
    assert "OutOfMemoryError: 3 GiB" in page
    assert "| teacher | 100.0 |            200.0 |".replace(" ", "") in page.replace(" ", "")
    assert "100000" in page


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_has_a_config(case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = config_of(case, str(tmp_path), FULL, "cuda")
    assert cfg.SOLVER.IMS_PER_BATCH == cfg.SSOD.IMS_PER_BATCH_UNLABELED == 8
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,) and cfg.DATALOADER.NUM_WORKERS == 12
    assert cfg.SOLVER.AMP.ENABLED == (case.dtype != "float32")
    assert case.system in SYSTEMS and case.dtype in TYPES and case.variant in VARIANTS
    assert ("channels_last" in cfg.SSOD.FAST_OPS) == (case.variant == CHANNELS_LAST)
    SnapshotBoard("", cfg.SSOD.SNAPSHOT_DELAY).check_delay(FULL.workers, PREFETCH_FACTOR)


def test_drawn_photographs_are_a_coco_set(tmp_path: Path) -> None:
    content = json.loads(Path(draw_set(str(tmp_path), "labeled", TINY, 0)).read_text())
    assert len(content["images"]) == TINY.images and content["annotations"]
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x and x + w <= TINY.width and 0 <= y and y + h <= TINY.height
    assert not json.loads((tmp_path / "labeled_bare.json").read_text())["annotations"]


def test_the_overlapped_teacher_changes_no_loss(storage) -> None:
    images = batch(2, 1)
    found = []
    for change in (None, overlapped):
        core = core_of(cfg_with(("ScoreThreshold",), "SSOD.SCORE_THRESHOLD", 0.1))
        if change is not None:
            change(core)
        torch.manual_seed(0)
        losses = core(images)
        sum(losses.values()).backward()
        gradient = core.student.backbone.fpn_output2.weight.grad
        found.append(({k: v.item() for k, v in losses.items()}, gradient))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (found[1][1] - found[0][1]).norm() < 1e-3 * found[0][1].norm()


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--minutes", "0"], "--minutes"),
        (["--parts", "tables", "--device", "cpu"], "--sweep"),
        *([] if torch.cuda.is_available() else [(["--parts", "steps"], "finds no GPU")]),
    ],
)
def test_wrong_options_are_one_line(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=words):
        main([*argv, "--output", str(tmp_path / "out")])


def test_tables_are_a_sweep(tmp_path: Path) -> None:
    options = ["--parts", "tables", "--sweep", "--configs a.yaml --seeds 1 2", "--output", "out"]
    (part,) = make_parts(build_parser().parse_args(options))
    assert list(part.command[1:]) == [
        *("-m", "ssod.tools.sweep", "--output", "out/sweep"),
        *("--configs", "a.yaml", "--seeds", "1", "2"),
    ]
