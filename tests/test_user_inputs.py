"""Inputs as users have them: each is used with equal numbers, skipped and counted, or refused in
one line.
"""

from __future__ import annotations

import itertools
from typing import Callable, Dict

import pytest

import input_rows_coco
import input_rows_config
import input_rows_images
import input_rows_paths
import input_rows_registered
import input_rows_unlabelled
import input_rows_voc
from input_case import Change, Outcome, Row, check_row, make_valid_data, new_case, run_case

SUBJECTS = (
    input_rows_coco,
    input_rows_voc,
    input_rows_images,
    input_rows_paths,
    input_rows_unlabelled,
    input_rows_registered,
    input_rows_config,
)
ROWS = [row for subject in SUBJECTS for row in subject.ROWS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Change], Outcome]:
    """Runs a change of the valid data, once."""
    valid = tmp_path_factory.mktemp("inputs") / "valid"
    valid.mkdir()
    make_valid_data(valid)
    numbers = itertools.count()
    outcomes: Dict[Change, Outcome] = {}

    def run_change(change: Change) -> Outcome:
        if change not in outcomes:
            case = new_case(valid, valid.parent / f"case{next(numbers)}")
            change(case)
            outcomes[change] = run_case(case, valid)
        return outcomes[change]

    return run_change


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, run: Callable[[Change], Outcome]) -> None:
    check_row(row, run)
