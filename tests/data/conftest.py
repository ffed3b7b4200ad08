"""Whatever a format reads in these tests is packed too, and must not change by it."""

from __future__ import annotations

from typing import Any

import pytest

from packing import check_packing
from ssod.data import declarations  # noqa: F401  (registers the formats)
from ssod.data.formats.registry import FORMATS


@pytest.fixture(autouse=True)
def packing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(read: Any) -> Any:
        def wrapped(self: Any) -> Any:
            rows = read(self)
            check_packing(rows)
            return rows

        return wrapped

    for kind in {entry.kind for entry in FORMATS.values()}:
        for name in ("labeled_records", "unlabeled_records"):
            monkeypatch.setattr(kind, name, checked(getattr(kind, name)))
