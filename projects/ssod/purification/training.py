"""Trains the positive-unlabelled classifier (Algorithm 1, step 1).

An epoch goes through the wild images once. Half of every batch is labelled, half wild. Algorithm 1
draws in proportion. With few labelled images, a batch would then hold only one or two of them, and
its risk would be noise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import Dataset

from ssod.engine.launch import wrap_ddp
from ssod.errors import TrainingDiverged, UserError
from ssod.methods.pudet.risk import nnpu_ascent, nnpu_risk
from ssod.purification.classifier import PUClassifier
from ssod.purification.images import ImageBatch, ImageReader, Request, load_batches
from ssod.utils.atomic import write_atomically
from ssod.utils.comm import all_reduce_mean, broadcast_from_main
from ssod.utils.progress import progress
from ssod.utils.tensor_file import load_tensor_file

CHECKPOINT = "classifier.pth"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. The defaults are the paper's, as far as it gives values.

    Attributes:
        prior: pi. epochs, lr: lr is divided by 10 after 60 % of the epochs. batch_size: images of
            both halves over all ranks.
        ascent: (beta, gamma) of Kiryo's ascending step instead of the clamp.
    """

    prior: float
    epochs: int = 100
    lr: float = 0.01
    batch_size: int = 64
    momentum: float = 0.9
    # The paper prints momentum 0.001 and weight decay 0.9.
    weight_decay: float = 0.001
    ascent: Optional[Tuple[float, float]] = None
    seed: int = 0
    workers: int = 0


class _Pairs(Dataset):
    """Reads a labelled and a wild request together."""

    def __init__(self, labeled: ImageReader, wild: ImageReader) -> None:
        self.labeled, self.wild = labeled, wild

    def __getitem__(self, pair: Tuple[Request, Request]) -> Tuple[ImageBatch, ImageBatch]:
        return self.labeled[pair[0]], self.wild[pair[1]]


def epoch_order(size: int, draws: int, seed: Sequence[int]) -> np.ndarray:
    """(draws,) indices from as many whole permutations of `size` as needed."""
    rng = np.random.default_rng(list(seed))
    rounds = [rng.permutation(size) for _ in range(-(-draws // size))]
    return np.concatenate(rounds)[:draws]


class EpochPlan:
    """The requests of one epoch for this rank. They are made on demand."""

    def __init__(self, labeled: int, wild: int, options: TrainingOptions, epoch: int) -> None:
        self.half = options.batch_size // 2
        self.steps = -(-wild // self.half)
        self.options, self.epoch = options, epoch
        draws = self.steps * self.half
        self.orders = [
            epoch_order(size, draws, (options.seed, epoch, stream))
            for stream, size in enumerate((labeled, wild))
        ]
        self.share = self.half // comm.get_world_size()
        self.own = slice(comm.get_rank() * self.share, (comm.get_rank() + 1) * self.share)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tuple[Request, Request]]:
        return (self.request(step) for step in range(self.steps))

    def request(self, step: int) -> Tuple[Request, Request]:
        """The images that this rank reads for a step."""
        rng = np.random.default_rng([self.options.seed, self.epoch, 2, step])
        requests = []
        for order in self.orders:
            batch = order[step * self.half : (step + 1) * self.half]
            seeds = rng.integers(2**62, size=self.half)
            requests.append(
                Request(tuple(batch[self.own].tolist()), tuple(seeds[self.own].tolist()))
            )
        return requests[0], requests[1]


def train_classifier(
    classifier: PUClassifier,
    labeled: ImageReader,
    wild: ImageReader,
    options: TrainingOptions,
    output: str,
) -> Dict[str, Any]:
    """Trains in place, from the checkpoint in `output` if there is one. At the end all ranks have
    equal weights.

    Returns:
        "history": mean risk of each epoch; "skipped": labelled and wild files that could not be
            read, with the reason.
    """
    trained = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    state: Dict[str, Any] = {"epoch": 0, "history": [], "skipped": {}}
    path = os.path.join(output, CHECKPOINT)
    if os.path.exists(path):
        state = load_tensor_file(path)
        classifier.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    module = wrap_ddp(classifier)
    module.train()
    device = classifier.linear.weight.device
    for epoch in range(state["epoch"], options.epochs):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * (0.1 if epoch >= 0.6 * options.epochs else 1.0)
        torch.manual_seed(options.seed + epoch)  # for backbones with random layers
        plan = EpochPlan(len(labeled.paths), len(wild.paths), options, epoch)
        batches = load_batches(_Pairs(labeled, wild), plan, options.workers)
        total = torch.zeros((), device=device)
        name = f"epoch {epoch + 1}/{options.epochs}"
        for positive, unknown in progress(batches, name, unit="step"):
            for batch, reader in ((positive, labeled), (unknown, wild)):
                for index, reason in batch.skipped:
                    state["skipped"][reader.paths[index]] = reason
                if len(batch.images) < plan.share:
                    raise UserError(
                        f"{reader.paths[batch.skipped[-1][0]]} and many images before it cannot be read: check the files."
                    )
            total += _step(module, optimizer, positive.images, unknown.images, options, device)
        mean = total / len(plan)
        all_reduce_mean([mean])
        if not torch.isfinite(mean):
            raise TrainingDiverged(
                f"The classifier's risk became infinite in epoch {epoch}: lower --lr."
            )
        state["history"] = [*state["history"], float(mean)]
        skipped: Dict[str, str] = {}
        for found in comm.all_gather(state["skipped"]):
            skipped.update(found)
        state["skipped"] = skipped
        if comm.is_main_process():
            content = {
                **state,
                "model": classifier.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch + 1,
            }
            write_atomically(path, lambda file: torch.save(content, file))
        comm.synchronize()
    # Each rank has its own running statistics of batch norms that are not frozen.
    broadcast_from_main(list(classifier.state_dict().values()))
    return {"history": state["history"], "skipped": state["skipped"]}


def _step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    positive: Tensor,
    unknown: Tensor,
    options: TrainingOptions,
    device: torch.device,
) -> Tensor:
    """Does one optimiser step and returns the risk.

    With several ranks, each rank returns the risk of its own share of the batch.
    """
    logits = module(torch.cat([positive, unknown]).to(device, non_blocking=True))
    of_positive, of_unknown = logits[: len(positive)], logits[len(positive) :]
    risk = nnpu_risk(of_positive, of_unknown, options.prior)
    if options.ascent is None:
        loss = risk
    else:
        loss = nnpu_ascent(of_positive, of_unknown, options.prior, *options.ascent)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return risk.detach()
