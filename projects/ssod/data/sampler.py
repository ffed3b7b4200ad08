"""Chooses the images of each batch from a labelled and an unlabelled deterministic stream.

Every rank draws the same global batches and takes its own slice, so that the images of a step do
not depend on the number of ranks. Epochs are permutations that follow from (seed, stream, epoch).
Batches hold images of one aspect group (portrait or landscape). Images that wait for others of
their group stay in the state, so that none is lost.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssod.data.snapshots import SnapshotBoard
from ssod.errors import UserError
from ssod.structures import SampleRef

STREAMS = ("labeled", "unlabeled")
# The (method, snapshot id) of the factors. None: the factors given at the start.
FactorSource = Optional[Tuple[str, int]]


@dataclass(frozen=True)
class StreamSpec:
    """One stream's dataset.

    Attributes:
        size: number of images.
        batch: images per micro-batch over all ranks.
        group: aspect group of an image, by index. None: all images are in one group.
        repeat_factors: float (size,), how often each image is drawn per epoch on average. None:
            once.
    """

    size: int
    batch: int
    group: Optional[Callable[[int], int]] = None
    repeat_factors: Optional[np.ndarray] = None


@dataclass(frozen=True)
class BatchRequest:
    """The images that one rank loads for one micro-batch, and the sampler's state after it."""

    refs: List[SampleRef]
    state: Dict[str, Any]


def micro_batch_size(key: str, total: int, world_size: int, accumulation: int) -> int:
    """Images per micro-batch over all ranks, from the images per step.

    Raises:
        UserError: the images cannot be shared equally. The message names `key`.
    """
    if total <= 0 or total % (world_size * accumulation):
        raise UserError(
            f"{key} {total} cannot be shared by {world_size} ranks x {accumulation} micro-batches: make it a positive "
            f"multiple of {world_size * accumulation} (see SOLVER.GRADIENT_ACCUMULATION_STEPS)."
        )
    return total // accumulation


def epoch_indices(
    seed: int, stream: str, epoch: int, size: int, repeat_factors: Optional[np.ndarray] = None
) -> np.ndarray:
    """int64 indices of one epoch in random order. Fractional repeats are rounded up or down at
    random.
    """
    key = (STREAMS.index(stream), epoch)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    if repeat_factors is None:
        return rng.permutation(size)
    whole = np.floor(repeat_factors)
    times = whole + (rng.random(size) < repeat_factors - whole)
    return rng.permutation(np.repeat(np.arange(size), times.astype(np.int64)))


class _Stream:
    """Draws one stream's global batches. `state` holds everything that changes, as plain Python
    values.
    """

    def __init__(self, name: str, spec: StreamSpec, seed: int) -> None:
        self.name, self.spec, self.seed = name, spec, seed
        self.state: Dict[str, Any] = {
            "size": spec.size,
            "epoch": 0,
            "cursor": 0,
            "position": 0,
            "waiting": {},
            "factors": None,
        }
        self._factors = spec.repeat_factors
        self._indices: Optional[np.ndarray] = None

    def load(self, state: Mapping[str, Any]) -> None:
        if state["size"] != self.spec.size:
            raise UserError(
                f"The checkpoint was trained on {state['size']} {self.name} images and the config names "
                f"{self.spec.size}: resume with the same datasets or start in another OUTPUT_DIR."
            )
        self.state = copy.deepcopy(dict(state))
        self._indices = None

    def set_factors(self, source: FactorSource, factors: Optional[np.ndarray]) -> None:
        """Sets the repeat factors. New factors begin a new epoch. The same factors do not."""
        if factors is None:
            factors = self.spec.repeat_factors
        else:
            factors = np.asarray(factors, dtype=np.float64)
            fits = factors.shape == (self.spec.size,) and np.isfinite(factors).all()
            if not fits or factors.min() < 0 or factors.max() <= 0:
                raise ValueError(
                    f"{source}: bad repeat factors for {self.spec.size} {self.name} images"
                )
        self._factors, self._indices = factors, None
        value = None if source is None else list(source)
        if value != self.state["factors"]:
            self.state["factors"] = value
            if self.state["cursor"] > 0:
                self.state["epoch"] += 1
                self.state["cursor"] = 0

    def _next_index(self) -> int:
        state = self.state
        while self._indices is None or state["cursor"] >= len(self._indices):
            if self._indices is not None:
                state["epoch"] += 1
                state["cursor"] = 0
            self._indices = epoch_indices(
                self.seed, self.name, state["epoch"], self.spec.size, self._factors
            )
        state["cursor"] += 1
        return int(self._indices[state["cursor"] - 1])

    def next_batch(self) -> List[Tuple[int, int]]:
        """(position, index) of the next global micro-batch."""
        waiting: Dict[int, List[int]] = self.state["waiting"]
        full = [group for group in sorted(waiting) if len(waiting[group]) >= self.spec.batch]
        while not full:
            index = self._next_index()
            group = 0 if self.spec.group is None else self.spec.group(index)
            waiting.setdefault(group, []).append(index)
            if len(waiting[group]) >= self.spec.batch:
                full = [group]
        queue = waiting[full[0]]
        batch, waiting[full[0]] = queue[: self.spec.batch], queue[self.spec.batch :]
        start = self.state["position"]
        self.state["position"] = start + len(batch)
        return list(enumerate(batch, start))


class TwoStreamBatchSampler:
    """Infinite. Yields one `BatchRequest` per micro-batch, labelled references first.

    Args:
        labeled, unlabeled: the streams. `unlabeled` is None if there is no such stream.
        unlabeled_from: the first step that has unlabelled images (the end of burn-in).
        seed: the same on every rank.
        rank, world_size: this process takes `[rank * b, (rank + 1) * b)` of each global
            micro-batch.
        accumulation: micro-batches per step.
        alternate: from `unlabeled_from` on, a micro-batch holds only one stream. The streams take
            turns, and the unlabelled one is first.
        board: the references name its snapshots in effect. The arrays "repeat_factors_<stream>"
            change the drawing.
        start_step: the first step, if there is no state.
        state: the state of an earlier `BatchRequest`, after which drawing continues. Streams that
            it lacks start anew.
    """

    def __init__(
        self,
        labeled: StreamSpec,
        unlabeled: Optional[StreamSpec] = None,
        *,
        unlabeled_from: int = 0,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        alternate: bool = False,
        board: Optional[SnapshotBoard] = None,
        start_step: int = 0,
        state: Optional[Mapping[str, Any]] = None,
    ) -> None:
        specs = {"labeled": labeled}
        if unlabeled is not None:
            specs["unlabeled"] = unlabeled
        for name, spec in specs.items():
            if spec.size <= 0:
                raise UserError(f"The {name} set has no images: check DATASETS.")
            if spec.batch % world_size:
                raise UserError(
                    f"{spec.batch} {name} images per micro-batch cannot be shared by {world_size} ranks: use a multiple of {world_size}."
                )
        self._specs, self._seed = specs, seed
        self._unlabeled_from = unlabeled_from
        self._rank, self._world_size = rank, world_size
        self._accumulation, self._board = accumulation, board
        self._alternate = alternate and unlabeled is not None
        self._start: Dict[str, Any] = {"step": start_step, "micro": 0}
        if state:
            self._start = copy.deepcopy(dict(state))

    def __iter__(self) -> Iterator[BatchRequest]:
        streams = {name: _Stream(name, spec, self._seed) for name, spec in self._specs.items()}
        for name, stream in streams.items():
            if self._start.get(name):
                stream.load(self._start[name])
        step, micro = self._start["step"], self._start["micro"]
        sources: Dict[str, FactorSource] = {}
        while True:
            snapshots = self._board.in_effect(step) if self._board else ()
            refs: List[SampleRef] = []
            for name, stream in streams.items():
                if not self._takes_part(name, step, micro):
                    continue
                source = self._factor_source(name, snapshots)
                if name not in sources or sources[name] != source:
                    stream.set_factors(source, self._read_factors(name, source))
                    sources[name] = source
                drawn = stream.next_batch()
                share = len(drawn) // self._world_size
                mine = drawn[self._rank * share : (self._rank + 1) * share]
                refs += [SampleRef(name, position, index, snapshots) for position, index in mine]
            micro += 1
            if micro >= self._accumulation:
                step, micro = step + 1, 0
            state: Dict[str, Any] = {"step": step, "micro": micro}
            state.update({name: copy.deepcopy(stream.state) for name, stream in streams.items()})
            yield BatchRequest(refs, state)

    def _takes_part(self, stream: str, step: int, micro: int) -> bool:
        since = step - self._unlabeled_from
        if since < 0 or not self._alternate:
            return stream == "labeled" or since >= 0
        turn = (since * self._accumulation + micro) % 2
        return stream == ("unlabeled", "labeled")[turn]

    def _factor_source(self, stream: str, snapshots: Sequence[Tuple[str, int]]) -> FactorSource:
        if self._board is None:
            return None
        wanted = f"repeat_factors_{stream}"
        found = [pair for pair in snapshots if wanted in self._board.array_names(*pair)]
        if len(found) > 1:
            names = " and ".join(method for method, _ in found)
            raise UserError(f"{names} both set {wanted}: keep one of them in SSOD.METHODS.")
        return found[0] if found else None

    def _read_factors(self, stream: str, source: FactorSource) -> Optional[np.ndarray]:
        if source is None or self._board is None:
            return None
        return self._board.load(*source)[f"repeat_factors_{stream}"]
