"""Inputs as users have them: each is used with equal numbers, skipped and counted, or refused in
one line.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Dict

import pytest

import input_rows_coco
import input_rows_config
import input_rows_files
from input_case import Case, Outcome, Row, check_row, make_valid_data, new_case, run_case

ROWS = [*input_rows_coco.ROWS, *input_rows_files.ROWS, *input_rows_config.ROWS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Case], Any]], Outcome]:
    """Runs a change of the valid data, once."""
    valid = tmp_path_factory.mktemp("inputs") / "valid"
    valid.mkdir()
    make_valid_data(valid)
    numbers = itertools.count()
    outcomes: Dict[Callable[[Case], Any], Outcome] = {}

    def run_change(change: Callable[[Case], Any]) -> Outcome:
        if change not in outcomes:
            case = new_case(valid, valid.parent / f"case{next(numbers)}")
            change(case)
            outcomes[change] = run_case(case, valid)
        return outcomes[change]

    return run_change


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, run: Callable[[Callable[[Case], Any]], Outcome]) -> None:
    check_row(row, run)
