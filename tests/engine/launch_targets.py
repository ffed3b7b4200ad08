"""Functions that spawned processes run; spawning imports them by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

import ssod  # noqa: F401  isort: skip  (before Detectron2, which needs its shims)

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from torch import nn

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.launch import wrap_ddp
from ssod.errors import UserError
from ssod.evaluation import evaluate


def train_and_fail(folder: str) -> None:
    """Two ranks take a step together and write what they see; then rank 1 makes the user's
    mistake.
    """
    rank = comm.get_rank()
    torch.manual_seed(rank)
    model = wrap_ddp(nn.Linear(1, 1))
    model(torch.full((1, 1), float(rank))).sum().backward()
    seen = comm.gather({"rank": rank})
    torch.save(
        {
            "ranks": [item["rank"] for item in seen],
            "local": (comm.get_local_rank(), comm.get_local_size()),
            "world": comm.get_world_size(),
            "weight": model.module.weight.detach(),
            "grad": model.module.weight.grad,
            "threads": torch.get_num_threads(),
        },
        Path(folder) / f"{rank}.pth",
    )
    evaluate_three_images(Path(folder))
    resume_from_different_files(Path(folder) / str(rank))
    comm.synchronize()
    if rank == 1:
        raise UserError("SSOD.TYPO is wrong: correct it.")
    comm.synchronize()  # never returns by itself: rank 1 has gone


class Perfect(nn.Module):
    """Finds the one box of each image."""

    def forward(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        found = Instances((20, 20), pred_boxes=Boxes(torch.tensor([[2.0, 2.0, 12.0, 12.0]])))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([1])
        return [{"instances": found} for _ in inputs]


def evaluate_three_images(folder: Path) -> None:
    """Three images on two ranks: none is lost, and rank 0 alone has numbers."""
    box = {"bbox": [2, 2, 12, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    row = {"file_name": str(folder / "x.png"), "height": 20, "width": 20, "annotations": [box]}
    DatasetCatalog.register("three", lambda: [{**row, "image_id": index} for index in range(3)])
    MetadataCatalog.get("three").set(thing_classes=["a", "b"])
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = 0
    results = evaluate(cfg, Perfect(), ["three"], str(folder / "inference"))
    if comm.is_main_process():
        assert abs(results["three"]["bbox"]["AR"] - 100) < 1e-6, results
    else:
        assert results == {"three": {}}, results


def resume_from_different_files(folder: Path) -> None:
    """Each rank sees another folder: both must refuse, or one would wait for the other for ever."""
    checkpointer = SSODCheckpointer(nn.Linear(1, 1), str(folder), save_to_disk=True)
    checkpointer.save("model_1")
    try:
        checkpointer.resume_or_load("")
    except UserError as error:
        assert "do not see the same checkpoint" in str(error), error
    else:
        raise AssertionError("two files, and no complaint")


def one_rank(folder: str) -> None:
    """For the torchrun test."""
    (Path(folder) / f"torchrun{comm.get_rank()}").write_text(
        f"{comm.get_local_rank()} {comm.get_world_size()}"
    )


if __name__ == "__main__":
    from ssod.engine.launch import launch

    launch(one_rank, 1, args=(sys.argv[1],), device="cpu")
