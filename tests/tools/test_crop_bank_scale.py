"""The tool at a small scale; the 1,000,000 instances are for people to run."""

from __future__ import annotations

import json
import math

import pytest

from ssod.errors import UserError
from ssod.tools import crop_bank_scale
from ssod.tools.crop_bank_scale import main

SMALL = ["--instances", "3000", "--images", "400", "--labeled", "300", "--classes", "7"]


def test_measures_every_part(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crop_bank_scale, "_DRAWS", 300)
    main([*SMALL, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint_bytes"] == (3000 + 400) * 7 * 8
    assert len(found["workers"]) == 2
    for row in found["workers"]:
        assert 0 < row["draw_and_look_up"] < 1
        assert math.isnan(row["more_private_bytes"]) or row["more_private_bytes"] < 50e6
    assert "3,000 pseudo-labels in 400 images" in crop_bank_scale.table(found)


def test_refuses_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="--images"):
        main(["--images", "0"])
