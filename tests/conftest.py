"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_coco

from detectron2.utils.events import EventStorage


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def storage() -> Any:
    with EventStorage() as store:
        yield store


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labeled (8), unlabeled (12) and test (6) images of coloured squares."""
    root = tmp_path_factory.mktemp("squares")
    for seed, (name, count) in enumerate((("labeled", 8), ("unlabeled", 12), ("test", 6))):
        write_coco(root, name, count, seed)
    return root
