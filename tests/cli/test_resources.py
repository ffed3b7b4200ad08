"""Packaged configs: found by name from any folder, a local file wins, unknown names get near
ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod import resources
from ssod.data.splits import check_split_hashes
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.tools import configs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_configs_are_listed() -> None:
    expected = {
        path.relative_to(ROOT / "configs").as_posix() for path in ROOT.glob("configs/**/*.yaml")
    }
    assert set(resources.config_names()) == expected and "digit_scenes/best.yaml" in expected


@pytest.mark.parametrize("name", ["digit_scenes/best.yaml", "configs/digit_scenes/best.yaml"])
def test_found_from_any_folder(empty: Path, name: str) -> None:
    cfg = load_config(name, ["SOLVER.MAX_ITER", "7"])
    assert cfg.SOLVER.MAX_ITER == 7 and "CropBank" in cfg.SSOD.METHODS
    assert (
        cfg.dump()
        == load_config(str(ROOT / "configs/digit_scenes/best.yaml"), ["SOLVER.MAX_ITER", 7]).dump()
    )


def test_local_file_wins(empty: Path) -> None:
    local = empty / "digit_scenes"
    local.mkdir()
    (local / "best.yaml").write_text("OUTPUT_DIR: mine\n")
    assert load_config("digit_scenes/best.yaml").OUTPUT_DIR == "mine"


@pytest.mark.parametrize(
    "name, near",
    [
        ("digit_scenes/bets.yaml", "digit_scenes/best.yaml"),
        ("digit_scene/best.yaml", "digit_scenes/best.yaml"),
        ("configs/cards/bset.yaml", "cards/best.yaml"),
        ("unbiased_teacher.yaml", "/unbiased_teacher.yaml"),
        ("qqqq.yaml", "`ssod configs` lists"),
    ],
)
def test_unknown_name_lists_near_ones(empty: Path, name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"{name} does not exist.*{near}"):
        load_config(name)


@pytest.mark.parametrize("name", ["../configs/cards/best.yaml", "/cards/best.yaml", "configs", ""])
def test_no_packaged_config(name: str) -> None:
    assert resources.packaged_config(name) is None


@pytest.mark.parametrize("base", ["cards/best.yaml", "configs/cards/best.yaml"])
def test_base_may_be_packaged(empty: Path, base: str) -> None:
    (empty / "mine.yaml").write_text(f"_BASE_: {base}\nOUTPUT_DIR: mine\n")
    cfg = load_config("mine.yaml")
    assert cfg.OUTPUT_DIR == "mine"
    packaged = load_config("cards/best.yaml", ["OUTPUT_DIR", "mine"])
    assert cfg.dump() == packaged.dump()


def test_base_beside_the_file_wins(empty: Path) -> None:
    (empty / "cards").mkdir()
    (empty / "cards" / "best.yaml").write_text("SOLVER: {MAX_ITER: 3}\n")
    (empty / "mine.yaml").write_text("_BASE_: cards/best.yaml\n")
    assert load_config("mine.yaml").SOLVER.MAX_ITER == 3


def test_last_of_several_bases_counts_most(empty: Path) -> None:
    (empty / "a.yaml").write_text("SOLVER: {MAX_ITER: 3, BASE_LR: 0.5}\n")
    (empty / "b.yaml").write_text("SOLVER: {MAX_ITER: 4}\n")
    (empty / "mine.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSEED: 9\n")
    cfg = load_config("mine.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (4, 0.5, 9)


def test_keys_of_version_1_are_translated(empty: Path) -> None:
    (empty / "old.yaml").write_text("VERSION: 1\nMODEL: {WEIGHT: old.pkl}\n")
    assert load_config("old.yaml").MODEL.WEIGHTS == "old.pkl"


def test_listing(capsys: pytest.CaptureFixture) -> None:
    configs.main(["cards", "best"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("cards/best.yaml ") for line in lines)
    assert not any(line.startswith("digit_scenes/best.yaml ") for line in lines)
    configs.main(["cards/best.yaml", "--where"])
    assert capsys.readouterr().out.split() == [
        "cards/best.yaml",
        str(ROOT / "configs/cards/best.yaml"),
    ]
    with pytest.raises(UserError, match="No config has zebra"):
        configs.main(["zebra"])


def test_every_config_describes_itself_without_its_command() -> None:
    for name in resources.config_names():
        text = configs.describe(resources.packaged_config(name) or "")
        assert not text.startswith(("python", "ssod ", "--"))


def test_missing_scenes_name_the_command_that_draws_them(empty: Path) -> None:
    cfg = load_config("digit_scenes/best.yaml")
    with pytest.raises(UserError, match="labeled.json does not exist.*`ssod digit-scenes` draws"):
        check_split_hashes(cfg)
