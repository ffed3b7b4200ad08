"""The page of the methods' cards: complete, current, and with a picture each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ssod.errors import UserError
from ssod.method_cards.canvas import png
from ssod.method_cards.pictures import PICTURES
from ssod.methods import get_method
from ssod.tools.detector_table import own_methods
from ssod.tools.method_cards import FOLDER, carded, defaults, facts, main, with_facts

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"
NAMES = [name for name, _ in own_methods()]


def cards() -> dict[str, str]:
    """The text of each card by its title."""
    parts = re.split(r"^### (\w+)$", PAGE.read_text(), flags=re.M)
    return {name: body.split("\n## ")[0] for name, body in zip(parts[1::2], parts[2::2])}


def test_every_method_has_a_current_card() -> None:
    page = PAGE.read_text()
    assert sorted(carded(page)) == NAMES == sorted(cards())
    assert with_facts(page) == page, "run python -m ssod.tools.method_cards"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_complete(name: str) -> None:
    card = cards()[name]
    assert f"<!-- facts: {name} -->" in card
    for part in ("* **Cost:** ", "* **Measured:** ", "* **Not when** "):
        assert card.count(part) == 1
    assert re.search(r"^`[^`]+`", card, re.M)  # the equation
    (path,) = re.findall(r"!\[.+\]\((.+)\)", card)
    file = PAGE.parent / path
    assert path == f"{FOLDER}/{name}.png" and file.stat().st_size < 60_000
    assert Image.open(file).format == "PNG"


def test_keys_are_the_defaults_in_the_code() -> None:
    keys = dict(defaults(get_method("GMMThreshold")))
    assert keys["SSOD.GMM_THRESHOLD.INITIAL"] == 0.5
    assert all(key.startswith("SSOD.GMM_THRESHOLD.") for key in keys)
    assert "| `SSOD.GMM_THRESHOLD.INITIAL` | `0.5` |" in facts("GMMThreshold")
    assert "no keys" in facts("PseudoBoxRegression")


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_drawn(name: str) -> None:
    """By code that still works; the pixels depend on fonts."""
    content = png(PICTURES[name]())
    assert content.startswith(b"\x89PNG") and len(content) < 60_000


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "methods.md"
    page.write_text("# M\n<!-- facts: PIM -->\nold\n<!-- end of facts -->\nend\n")
    one = {"PIM": PICTURES["PIM"]}
    monkeypatch.setattr("ssod.method_cards.pictures.PICTURES", one)
    main(["--output", str(page)])
    text = page.read_text()
    assert "old" not in text and "SSOD.PIM.SCORE_THRESHOLD" in text and text.endswith("end\n")
    assert (tmp_path / FOLDER / "PIM.png").is_file()
    page.write_text("<!-- facts: NoSuch -->\n<!-- end of facts -->\n")
    with pytest.raises(UserError, match="no method"):
        main(["--output", str(page)])
    with pytest.raises(UserError, match="does not exist"):
        main(["--output", str(tmp_path / "none.md")])
