"""What CropBank's two-rank test runs in each process."""

from ssod import compat

compat.apply()

import json  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from detectron2.utils import comm  # noqa: E402

from runs import digest, state_of, train  # noqa: E402
from tiny import tiny_cfg, with_squares  # noqa: E402


def main(root: str, output: str) -> None:
    """Trains with each way of refreshing; rank 0 writes what both ranks hold in the end."""
    torch.set_num_threads(1)
    found = {}
    for refresh in ("on_visit", "sweep"):
        folder = Path(output) / refresh
        cfg = with_squares(tiny_cfg(), Path(root), folder, ("ScoreThreshold", "CropBank"))
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "SSOD.IMS_PER_BATCH_UNLABELED", 4])
        cfg.merge_from_list(["SOLVER.MAX_ITER", 7, "SSOD.SCORE_THRESHOLD", 0.05])
        cfg.merge_from_list(["SSOD.SNAPSHOT_DELAY", 2, "SSOD.CROP_BANK.SNAPSHOT_PERIOD", 2])
        cfg.merge_from_list(["SSOD.CROP_BANK.REFRESH", refresh, "SSOD.CROP_BANK.REFRESH_PERIOD", 4])
        trainer = train(cfg)
        samples = trainer.core.last_batch.unlabeled
        pasted = sum(int((s.extras["CropBank"].banks == 1).sum()) for s in samples)
        found[refresh] = comm.all_gather(
            {
                "digest": digest(state_of(trainer)),
                "board": trainer.board.state_dict(),
                "visited": trainer.core.methods["CropBank"].pseudo_bank.visited,
                "pasted_from_pseudo": sum(comm.all_gather(pasted)),
            }
        )
    if comm.is_main_process():
        (Path(output) / "found.json").write_text(json.dumps(found))
