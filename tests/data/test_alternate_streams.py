"""SSOD.ALTERNATE_STREAMS: micro-batches of one stream in turn, an unlabelled one first."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, List

import pytest
import torch

from runs import METHOD_NAMES, method_cfg, state_of, train
from ssod.data.sampler import BatchRequest, StreamSpec, TwoStreamBatchSampler
from tiny import tiny_cfg, with_squares

LABELED, UNLABELED = StreamSpec(size=7, batch=2), StreamSpec(size=11, batch=3)


def take(count: int, **keywords: Any) -> List[BatchRequest]:
    keywords = {"labeled": LABELED, "unlabeled": UNLABELED, "seed": 3, **keywords}
    return list(islice(TwoStreamBatchSampler(alternate=True, **keywords), count))


def letters(requests: List[BatchRequest]) -> List[str]:
    return ["".join(ref.stream[0] for ref in request.refs) for request in requests]


def test_turns_follow_burn_in() -> None:
    assert letters(take(6, unlabeled_from=3)) == ["ll", "ll", "ll", "uuu", "ll", "uuu"]
    assert letters(take(4)) == ["uuu", "ll", "uuu", "ll"]


@pytest.mark.parametrize("accumulation", [2, 3])
def test_turns_count_micro_batches(accumulation: int) -> None:
    found = letters(take(3 * accumulation, accumulation=accumulation))
    assert found == (["uuu", "ll"] * 5)[: 3 * accumulation]


def test_each_stream_loses_nothing_and_resumes() -> None:
    whole = take(12)
    for stream in ("labeled", "unlabeled"):
        refs = [ref for request in whole for ref in request.refs if ref.stream == stream]
        assert [ref.position for ref in refs] == list(range(len(refs)))
    for at in (3, 4):
        rest = take(6, state=whole[at].state)
        assert [r.refs for r in rest] == [r.refs for r in whole[at + 1 : at + 7]]


def test_without_unlabelled_images_there_are_no_turns() -> None:
    assert letters(take(3, unlabeled=None)) == ["ll", "ll", "ll"]


@pytest.mark.trains
def test_losses_of_the_streams_come_in_turn(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    cfg.SSOD.ALTERNATE_STREAMS = True
    cfg.merge_from_list(
        ["SOLVER.MAX_ITER", 6, "SSOD.BURN_IN_STEPS", 1, "SSOD.SCORE_THRESHOLD", 0.05]
    )
    trainer = train(cfg)
    latest = trainer.storage.latest()
    # Steps 1, 3 and 5 are unlabelled, 2 and 4 labelled.
    assert latest["loss_cls"][1] == 4 and latest["loss_cls_unlabeled"][1] == 5


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_methods_bear_batches_of_one_stream(squares: Path, tmp_path: Path, name: str) -> None:
    cfg = method_cfg(squares, tmp_path / "run", (name,), 5)
    cfg.SSOD.ALTERNATE_STREAMS = True
    trainer = train(cfg)
    assert trainer.core.last_batch.unlabeled
    latest = trainer.storage.latest()
    assert latest["loss_cls"][1] == 4 and latest["loss_cls_unlabeled"][1] == 3
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())
