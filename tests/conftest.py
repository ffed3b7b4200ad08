"""Fixtures of all tests."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Iterator

import ssod  # noqa: F401  isort: skip  (before Detectron2, which needs its shims)

import pytest
import torch
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger

from tiny import write_coco


@pytest.fixture(autouse=True)
def threads_and_seed() -> None:
    """One thread, unless OMP_NUM_THREADS asks for more."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """Handlers that a test installs would write to its captured, by then closed, output.

    `setup_logger` also stops messages on their way to `caplog` of later tests.
    """
    yield
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "ssod"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture
def storage() -> Any:
    with EventStorage() as store:
        yield store


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labeled (8), unlabeled (12) and test (6) images of coloured squares
    and their masks.
    """
    root = tmp_path_factory.mktemp("squares")
    for seed, (name, count) in enumerate((("labeled", 8), ("unlabeled", 12), ("test", 6))):
        write_coco(root, name, count, seed, masks=True)
    return root
