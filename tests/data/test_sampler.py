from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch

from ssod.data.sampler import (
    BatchRequest,
    StreamSpec,
    TwoStreamBatchSampler,
    epoch_indices,
    micro_batch_size,
)
from ssod.data.snapshots import SnapshotBoard
from ssod.errors import UserError

LABELED = StreamSpec(size=7, batch=2, group=lambda i: i % 2)
UNLABELED = StreamSpec(size=11, batch=4, group=lambda i: int(i > 6))


def _take(count: int, **keywords: Any) -> List[BatchRequest]:
    keywords = {"labeled": LABELED, "unlabeled": UNLABELED, "seed": 3, **keywords}
    return list(islice(TwoStreamBatchSampler(**keywords), count))


def _indices(requests: List[BatchRequest], stream: str) -> List[int]:
    return [ref.index for r in requests for ref in r.refs if ref.stream == stream]


def test_nothing_is_lost_and_batches_are_of_one_group() -> None:
    requests = _take(100)
    for request in requests:
        for stream, spec in (("labeled", LABELED), ("unlabeled", UNLABELED)):
            groups = {spec.group(ref.index) for ref in request.refs if ref.stream == stream}
            assert len(groups) == 1
    for stream, spec in (("labeled", LABELED), ("unlabeled", UNLABELED)):
        state = requests[-1].state[stream]
        seen = Counter(_indices(requests, stream))
        seen.update(i for queue in state["waiting"].values() for i in queue)
        seen.update(epoch_indices(3, stream, state["epoch"], spec.size)[state["cursor"] :].tolist())
        assert seen == {i: state["epoch"] + 1 for i in range(spec.size)}
        positions = [ref.position for r in requests for ref in r.refs if ref.stream == stream]
        assert positions == list(range(len(positions)))
        assert state["position"] == len(positions)


def test_burn_in_and_order() -> None:
    requests = _take(5, unlabeled_from=3)
    assert [[ref.stream[0] for ref in r.refs] for r in requests] == [list("ll")] * 3 + [
        list("lluuuu")
    ] * 2
    assert requests[3].refs[2].position == 0
    # The labelled stream does not notice the other one.
    assert _indices(requests, "labeled") == _indices(_take(5, unlabeled=None), "labeled")


def test_accumulation_counts_steps() -> None:
    requests = _take(6, unlabeled_from=1, accumulation=3)
    assert [len(r.refs) for r in requests] == [2, 2, 2, 6, 6, 6]
    assert [(r.state["step"], r.state["micro"]) for r in requests[:4]] == [
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]


def test_two_ranks_share_what_one_rank_draws() -> None:
    one, first, second = _take(20), _take(20, world_size=2), _take(20, world_size=2, rank=1)
    for whole, a, b in zip(one, first, second):
        assert a.state == b.state == whole.state
        assert [r.index for r in a.refs] != []
        assert whole.refs == a.refs[:1] + b.refs[:1] + a.refs[1:] + b.refs[1:]


@pytest.mark.parametrize("cut", [1, 4, 17])
def test_resumed_in_the_middle(tmp_path: Path, cut: int) -> None:
    whole = _take(40, unlabeled_from=3, accumulation=2)
    torch.save(whole[cut - 1].state, tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert _take(40 - cut, unlabeled_from=3, accumulation=2, state=state) == whole[cut:]


def test_iterating_twice_gives_the_same() -> None:
    sampler = TwoStreamBatchSampler(LABELED, UNLABELED, seed=3)
    assert list(islice(sampler, 7)) == list(islice(sampler, 7))


def test_repeat_factors_hold_on_average() -> None:
    factors = np.array([1.0, 2.5, 0.25, 3.0])
    counts = Counter()
    for epoch in range(400):
        counts.update(epoch_indices(0, "labeled", epoch, 4, factors).tolist())
    assert counts[0] == 400 and counts[3] == 1200
    assert counts[1] == pytest.approx(1000, abs=40) and counts[2] == pytest.approx(100, abs=30)


def test_published_factors_start_an_epoch_at_their_step(tmp_path: Path) -> None:
    board = SnapshotBoard(str(tmp_path), delay=2)
    spec = StreamSpec(size=4, batch=2)

    def run(**keywords: Any) -> TwoStreamBatchSampler:
        return TwoStreamBatchSampler(spec, spec, seed=0, board=board, **keywords)

    before = list(islice(run(), 12))
    board.publish("CrS", {"repeat_factors_unlabeled": np.array([0.0, 3.0, 0.0, 1.0])}, 1)
    after = list(islice(run(), 12))
    assert [r.refs for r in after[:3]] == [r.refs for r in before[:3]]
    assert after[3].refs[0].snapshots == (("CrS", 0),) and after[2].refs[0].snapshots == ()
    drawn = _indices(after[3:], "unlabeled")
    assert Counter(drawn[:4]) == Counter(drawn[4:8]) == {1: 3, 3: 1}
    assert _indices(after, "labeled") == _indices(before, "labeled")
    for cut in (2, 3, 4, 6):
        assert list(islice(run(state=after[cut - 1].state), 12 - cut)) == after[cut:]
    # Other snapshots leave the drawing alone.
    board.publish("Bank", {"boxes": np.zeros(3)}, 3)
    assert _indices(list(islice(run(), 12)), "unlabeled") == _indices(after, "unlabeled")
    board.publish("Other", {"repeat_factors_unlabeled": np.ones(4)}, 3)
    with pytest.raises(UserError, match="CrS and Other"):
        list(islice(run(), 12))


def test_bad_factors_are_refused(tmp_path: Path) -> None:
    for factors in (np.ones(3), np.zeros(7), np.full(7, np.nan), np.full(7, -1.0)):
        board = SnapshotBoard(str(tmp_path), delay=0)
        board.publish("CrS", {"repeat_factors_labeled": factors}, 0)
        with pytest.raises(ValueError, match="7 labeled images"):
            _take(1, board=board)


def test_errors() -> None:
    assert micro_batch_size("K", 12, world_size=2, accumulation=3) == 4
    with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH 3 .* multiple of 2"):
        micro_batch_size("SOLVER.IMS_PER_BATCH", 3, world_size=2, accumulation=1)
    with pytest.raises(UserError, match="labeled set has no images"):
        _take(1, labeled=StreamSpec(size=0, batch=2))
    state = _take(1)[0].state
    with pytest.raises(UserError, match="7 labeled images .* 9"):
        _take(1, labeled=StreamSpec(size=9, batch=2), state=state)


def test_a_stream_the_state_lacks_starts_anew() -> None:
    state = _take(4, unlabeled=None)[-1].state
    resumed = _take(2, state=state)
    assert [len(r.refs) for r in resumed] == [6, 6]
    assert resumed[0].refs[0].position == 8 and resumed[0].refs[2].position == 0
