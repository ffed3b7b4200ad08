"""Any JSON in place of any value of a COCO file: the run ends well, or in one line that names the
file.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_case import Case, make_valid_data, new_case, run_case

Place = Tuple[Any, ...]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [0, -1, 1, 2, 3, 10**18, 10**400, -(10**30), "", "0", "1", "nan", "\x00", "../"]
    ),
    st.floats(),  # Python writes and reads NaN and Infinity
    st.text(max_size=12),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """The place of the value itself and of everything inside."""
    yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*place, key))
    elif isinstance(value, list):
        # Entries of a list are alike: the first, the second and the last.
        for index in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from places(value[index], (*place, index))


def replaced(content: Any, place: Place, value: Any) -> Any:
    """A copy with another value in one place."""
    if not place:
        return value
    content = json.loads(json.dumps(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("values") / "valid"
    root.mkdir()
    make_valid_data(root)
    return root


CONTENT: Dict[str, List[Place]] = {}
NUMBERS = itertools.count()


def one_run(valid: Path, which: str, place: Place, value: Any, steps: int) -> None:
    case: Case = new_case(valid, valid.parent / f"case{next(NUMBERS)}")
    setattr(case, which, replaced(getattr(case, which), place, value))
    case.opts += ["SOLVER.MAX_ITER", str(steps)]
    outcome = run_case(case, valid)
    assert not outcome.error or f"{which}.json" in outcome.error, outcome.error


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), which=st.sampled_from(["train", "val"]), value=VALUES)
def test_any_value(valid: Path, data: Any, which: str, value: Any) -> None:
    content = json.loads((valid / f"{which}.json").read_text())
    place = data.draw(st.sampled_from(list(places(content))))
    one_run(valid, which, place, value, steps=1)
