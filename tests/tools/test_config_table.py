"""The page of configs: what is read from headers and results, and that the committed page is up to
date.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod.errors import UserError
from ssod.report.gpu_hours import gpu_hours
from ssod.tools.config_table import (
    Published,
    headers,
    main,
    read_measured,
    read_published,
    write_header,
    write_page,
)
from tiny import tiny_cfg

ROOT = Path(__file__).parents[2]


def test_committed_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = write_page(Path("configs"), Path("docs/results"))
    fresh = (ROOT / "docs" / "configs.md").read_text() == page
    assert fresh, "run python -m ssod.tools.config_table"


def test_committed_headers_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stale = [
        str(path) for path, text in headers(Path("configs")).items() if path.read_text() != text
    ]
    assert not stale, "run python -m ssod.tools.config_table"


def test_header_is_replaced_below_what_was_published(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# launch\n# Published: AP 1 (A)\n# a remark\nA: 1\n")
    for hours in ("3", "4"):
        path.write_text(write_header(path, hours))
    assert path.read_text().splitlines()[1:] == [
        "# Published: AP 1 (A)",
        "# GPU-hours: about 4 (V100, estimated)",
        "# a remark",
        "A: 1",
    ]


def test_gpu_hours_by_hand() -> None:
    cfg = tiny_cfg("GN")
    cfg.merge_from_list(
        ["MODEL.RESNETS.DEPTH", 50, "SOLVER.MAX_ITER", 1000, "SOLVER.IMS_PER_BATCH", 8]
    )
    cfg.merge_from_list(["SSOD.BURN_IN_STEPS", 400, "SSOD.IMS_PER_BATCH_UNLABELED", 10])
    cfg.merge_from_list(["DATASETS.UNLABELED", ("x",), "SSOD.METHODS", ("ScoreThreshold", "PIM")])
    labelled, unlabelled = 16 * 1000, 10 * 600
    online = 0.105 * (labelled + 1.25 * unlabelled) + 0.038 * unlabelled
    assert gpu_hours(cfg) * 3600 == pytest.approx(online)
    cfg.merge_from_list(["SSOD.PSEUDO_LABELS", "labels.json", "SSOD.METHODS", ("ScoreThreshold",)])
    cfg.merge_from_list(["SSOD.BURN_IN_STEPS", 0, "SSOD.LABELED_WEAK_VIEW", False])
    stored = 0.105 * 18 * 1000
    assert gpu_hours(cfg) * 3600 == pytest.approx(stored)
    assert gpu_hours(cfg, all_phases=True) * 3600 == pytest.approx(0.105 * 8 * 1000 + 2 * stored)
    cfg.merge_from_list(["SSOD.ALTERNATE_STREAMS", True])
    assert gpu_hours(cfg) * 3600 == pytest.approx(stored / 2)
    cfg.merge_from_list(["SSOD.METHODS", (), "DATASETS.UNLABELED", ()])
    assert gpu_hours(cfg) * 3600 == pytest.approx(0.105 * 8 * 1000)


def test_every_config_is_on_the_page() -> None:
    page = (ROOT / "docs" / "configs.md").read_text()
    for path in (ROOT / "configs").rglob("*.yaml"):
        listed = f"](../{path.relative_to(ROOT).as_posix()})" in page
        assert listed != path.name.startswith("base"), path


@pytest.mark.parametrize(
    "header, expected",
    [
        ("# Published: AP 26.07 (ACRST, Table 1)\n", Published("AP 26.07", "ACRST, Table 1")),
        (
            "# a launch line\n# Published: nothing (no row (yet))\nA: 1\n",
            ("nothing", "no row (yet)"),
        ),
        ("# another remark\n", None),
    ],
)
def test_headers(tmp_path: Path, header: str, expected: object) -> None:
    (tmp_path / "x.yaml").write_text(header)
    found = read_published(tmp_path / "x.yaml")
    assert found == (Published(*expected) if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize(
    "header", ["# Published AP 3 (A)", "# Published: AP 3", "# Published: 1 (A)\n" * 2]
)
def test_headers_of_another_form_are_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.yaml").write_text(header)
    with pytest.raises(UserError, match="x.yaml: write one line '# Published: VALUES"):
        read_published(tmp_path / "x.yaml")


def test_measured_values(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "table.csv").write_text(
        "row,config,AP_mean,AP_std,AP_n\n"
        "a,configs/a.yaml,36.965,,1\nb,configs/b.yaml,44.04,0.26,3\nc,configs/c.yaml,,,0\n"
        'd,"configs/b.yaml,SOLVER.MAX_ITER=8",40.0,,1\n'
    )
    phases = tmp_path / "results" / "phases"
    phases.mkdir()
    (phases / "summary.csv").write_text(
        "config,dataset,phase,images,metric,value\n"
        "configs/p.yaml,t,0,all,AP,30.04\nconfigs/p.yaml,t,0,all,AP50,60\nconfigs/p.yaml,t,0,easy,AP,40\n"
        "configs/p.yaml,t,0~1,all,AP,35.5\n"
    )
    assert read_measured(tmp_path / "results") == {
        "configs/p.yaml": [
            "phase 0: 30.0, phase 0~1: 35.5 (1 run, [phases](results/phases/summary.md))"
        ],
        "configs/a.yaml": ["37.0 (1 run, [mine](results/mine/table.md))"],
        "configs/b.yaml": [
            "44.0 ± 0.3 (3 runs, [mine](results/mine/table.md))",
            "40.0 with SOLVER.MAX_ITER=8 (1 run, [mine](results/mine/table.md))",
        ],
    }


def test_page_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder configs here"):
        main([])
    folder = tmp_path / "configs" / "coco_standard"
    folder.mkdir(parents=True)
    file = (
        'SSOD:\n  DATASETS:\n    coco_labeled: {ANNOTATIONS: "s/coco_%spct_fold0_labeled.json"}\n'
    )
    for percent in ("10", "2"):
        text = f"# Published: AP {percent} (P, Table 1)\n" + file % percent
        (folder / f"x_{percent}pct.yaml").write_text(text)
    (folder / "base.yaml").write_text("SEED: 1\n")
    main(["--output", "page.md"])
    rows = [line for line in (tmp_path / "page.md").read_text().splitlines() if "x_" in line]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["2 %", "supervised", "37", "AP 2 (P, Table 1)", "– |"],
        ["10 %", "supervised", "37", "AP 10 (P, Table 1)", "– |"],
    ]
    assert "base" not in (tmp_path / "page.md").read_text().split("##")[1]
