"""The training loader: one torch DataLoader for both streams. It is deterministic for any number of
workers.

The sampler runs in the main process and tells the workers what to load. The image that replaces a
damaged one depends only on (seed, stream, position).
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssod.data.label_columns import label_columns, repeat_factors
from ssod.data.mapper import TwoViewMapper, UnreadableImage, ViewTransform, sample_rng
from ssod.data.packed import PackedRecords
from ssod.data.records import read_image_size
from ssod.data.sampler import BatchRequest, StreamSpec, TwoStreamBatchSampler, micro_batch_size
from ssod.data.snapshots import SnapshotBoard
from ssod.errors import UserError
from ssod.structures import Sample, SampleRef, SSODBatch

PREFETCH_FACTOR = 2
MAX_ATTEMPTS = 100
_ALIGNMENT = 64

Packed = Tuple[bytes, Tensor]


class AspectGroups:
    """Aspect group of each image: 0 landscape, 1 portrait or square.

    Sizes come from the records. If a record has none (a plain folder), the file's header is read
    when the image is first drawn. Reading 100,000 headers before the first step would take minutes
    on a network drive.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], dataset: Sequence[Any]) -> None:
        self._dataset = dataset
        packed = PackedRecords.of(records)
        width, height = packed.whole_numbers("width"), packed.whole_numbers("height")
        known = (width != 0) & (height != 0)
        self._groups = np.where(known, width <= height, -1).astype(np.int8)

    def __call__(self, index: int) -> int:
        if self._groups[index] < 0:
            self._groups[index] = self._from_header(self._dataset[index]["file_name"])
        return int(self._groups[index])

    @staticmethod
    def _from_header(file_name: str) -> int:
        try:
            height, width = read_image_size(file_name)
            return int(width <= height)
        # A damaged file will be replaced anyway, so any group will do.
        except OSError:
            return 0


class TwoStreamDataset(Dataset):
    """Maps a `BatchRequest` to an `SSODBatch`.

    Args:
        datasets: records of each stream, by name.
        mapper: makes one sample.
    """

    def __init__(self, datasets: Mapping[str, Sequence[Any]], mapper: TwoViewMapper) -> None:
        self._datasets = dict(datasets)
        self._mapper = mapper

    def __getitem__(self, request: BatchRequest) -> SSODBatch:
        samples = [self.sample(ref) for ref in request.refs]
        return SSODBatch(
            labeled=[s for s in samples if s.ref.stream == "labeled"],
            unlabeled=[s for s in samples if s.ref.stream == "unlabeled"],
            sampler_state=request.state,
        )

    def sample(self, ref: SampleRef) -> Sample:
        """The requested sample, or the first readable one of its substitutes. `skipped` has the
        unreadable ones.

        A substitute has its own `ref.index`. Stream and position stay, and so does all randomness.
        """
        dataset = self._datasets[ref.stream]
        draw: Optional[np.random.Generator] = None
        skipped: List[Tuple[str, str]] = []
        index = ref.index
        while len(skipped) < MAX_ATTEMPTS:
            try:
                sample = self._mapper(
                    dataset[index], SampleRef(ref.stream, ref.position, index, ref.snapshots)
                )
            except UnreadableImage as error:
                skipped.append((error.file_name, error.reason))
                draw = draw or sample_rng(self._mapper.seed, ref, "replacement")
                index = int(draw.integers(len(dataset)))
            else:
                sample.skipped = skipped + sample.skipped
                return sample
        file_name, reason = skipped[-1]
        raise UserError(
            f"{file_name}: cannot be read ({reason}), like {MAX_ATTEMPTS - 1} {ref.stream} images drawn before it: "
            "check the dataset's files."
        )


class _WorkerDataset(Dataset):
    """Sends batches from a worker in packed form, and errors as values.

    A batch of 64 images holds hundreds of tensors. Each would keep a file descriptor open on its
    way to the main process, and the default limit is 1,024. A packed batch needs only one. An
    exception that crosses the process boundary becomes a traceback, but a `UserError` must stay one
    line.
    """

    def __init__(self, dataset: TwoStreamDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, request: BatchRequest) -> Union[Packed, UserError]:
        try:
            return pack(self._dataset[request])
        except UserError as error:
            return error


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: List[Tuple[int, Tensor]] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.device.type != "cpu" or obj.layout != torch.strided:
            return None
        obj = obj.detach().contiguous()
        start = self.size
        self.tensors.append((start, obj))
        used = obj.numel() * obj.element_size()
        self.size = start + -(-used // _ALIGNMENT) * _ALIGNMENT
        return start, used, obj.dtype, tuple(obj.shape)


class _Unpacker(pickle.Unpickler):
    def __init__(self, content: bytes, flat: Tensor) -> None:
        super().__init__(io.BytesIO(content))
        self._flat = flat

    def persistent_load(self, pid: Any) -> Tensor:
        start, used, dtype, shape = pid
        return self._flat[start : start + used].view(dtype).view(shape)


def pack(value: Any) -> Packed:
    """Pickles `value` with the data of all its tensors in one flat uint8 tensor."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    flat = torch.empty(packer.size, dtype=torch.uint8)
    for start, tensor in packer.tensors:
        data = tensor.reshape(-1).view(torch.uint8)
        flat[start : start + len(data)] = data
    return file.getvalue(), flat


def unpack(packed: Packed) -> Any:
    """The inverse of `pack`. The tensors are views of the flat one."""
    return _Unpacker(*packed).load()


def _start_worker(worker: int) -> None:
    # Workers already share the machine's cores.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # Only the main process ends its workers, but a terminal or a scheduler signals all of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    """Ends this process when its parent sends SIGTERM, and ignores other senders."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _as_is(value: Any) -> Any:
    return value


class TrainLoader:
    """Infinite iterable of `SSODBatch`. Workers start when the first batch is requested, not
    before.

    Unreadable images are replaced and listed in `Sample.skipped`.
    """

    def __init__(
        self,
        dataset: TwoStreamDataset,
        sampler: TwoStreamBatchSampler,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.sampler, self.workers = dataset, sampler, workers
        self.pin_memory = pin_memory

    def __iter__(self) -> Iterator[SSODBatch]:
        if self.workers == 0:
            for request in self.sampler:
                yield self.dataset[request]
        loader: DataLoader = DataLoader(
            _WorkerDataset(self.dataset),
            batch_size=None,
            sampler=self.sampler,  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=PREFETCH_FACTOR,
            collate_fn=_as_is,
            worker_init_fn=_start_worker,
            # Without a generator of its own, a DataLoader draws from torch's global one when it
            # starts.
            generator=torch.Generator().manual_seed(0),
            pin_memory=self.pin_memory,
        )
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield unpack(item)


def _repeat_factors(cfg: CfgNode, records: PackedRecords) -> Optional[np.ndarray]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return None
    if name != "RepeatFactorTrainingSampler":
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN {name} is not supported: use TrainingSampler or RepeatFactorTrainingSampler."
        )
    labels, rare = label_columns(records), cfg.DATALOADER.REPEAT_THRESHOLD
    factors = repeat_factors(labels.image, labels.classes, len(records), rare)
    return factors.astype(np.float64)


def build_train_loader(
    cfg: CfgNode,
    labeled: Sequence[Mapping[str, Any]],
    unlabeled: Sequence[Mapping[str, Any]],
    *,
    view_transforms: Optional[Mapping[str, ViewTransform]] = None,
    board: Optional[SnapshotBoard] = None,
    seed: int,
    state: Optional[Mapping[str, Any]] = None,
    start_step: int = 0,
) -> TrainLoader:
    """Batches of both streams for this rank. See `TwoStreamBatchSampler` for `state` and
    `start_step`.

    Unlabelled images are loaded from step `SSOD.BURN_IN_STEPS` on, unless `SSOD.METHODS` is empty.

    Args:
        labeled, unlabeled: Detectron2 dataset dicts. The unlabelled ones have no annotations.
        seed: a seed other than -1, the same on every rank.
    """
    workers = cfg.DATALOADER.NUM_WORKERS
    if board is not None and cfg.SSOD.METHODS:
        board.check_delay(workers, PREFETCH_FACTOR)
    records = {"labeled": PackedRecords.of(labeled)}
    batches = {"labeled": ("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)}
    if cfg.SSOD.METHODS and unlabeled:
        records["unlabeled"] = PackedRecords.of(unlabeled)
        batches["unlabeled"] = ("SSOD.IMS_PER_BATCH_UNLABELED", cfg.SSOD.IMS_PER_BATCH_UNLABELED)
    world_size, accumulation = comm.get_world_size(), cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    specs = {}
    for name, rows in records.items():
        if not rows:
            raise UserError(f"The {name} set has no images: check DATASETS.")
        grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
        specs[name] = StreamSpec(
            size=len(rows),
            batch=micro_batch_size(*batches[name], world_size, accumulation),
            group=AspectGroups(rows, rows) if grouped else None,
            repeat_factors=_repeat_factors(cfg, rows) if name == "labeled" else None,
        )
    sampler = TwoStreamBatchSampler(
        specs["labeled"],
        specs.get("unlabeled"),
        unlabeled_from=cfg.SSOD.BURN_IN_STEPS,
        seed=seed,
        rank=comm.get_rank(),
        world_size=world_size,
        accumulation=accumulation,
        alternate=cfg.SSOD.ALTERNATE_STREAMS,
        board=board,
        start_step=start_step,
        state=state,
    )
    mapper = TwoViewMapper.from_config(
        cfg, view_transforms, seed=seed, snapshots=board.reader if board is not None else None
    )
    pin_memory = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    return TrainLoader(TwoStreamDataset(records, mapper), sampler, workers, pin_memory)
