"""The functions that the two-rank tests run in each process. One group serves all cases, since
importing Detectron2 takes seconds.
"""

import ssod  # noqa: F401  isort: skip  (before Detectron2, which needs its shims)

import importlib.util
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from detr_case import KINDS, detr_keys
from region_rig import KEYS
from runs import (
    FULL_STACK,
    METHOD_NAMES,
    RETINANET,
    digest,
    method_cfg,
    quota_free,
    state_of,
    train,
    with_stored_labels,
)
from ssod.engine.trainer import SSODTrainer
from ssod.phases.runner import run_phases
from ssod.purification.run import purify
from ssod.tools.pseudo_label import work as pseudo_label
from ssod.tools.purify import build_parser
from tiny import tiny_cfg, with_squares

# The cascade's later stages and the mask head are what they have beyond Faster R-CNN.
FAMILIES = ("Cascade Mask R-CNN",)
# Of detr_case.py, where the package transformers is installed.
QUERIES = ("two_stage", "rt_detr") if importlib.util.find_spec("transformers") else ()


def main(root: str, output: str) -> None:
    """Runs every case and has rank 0 write what the ranks found."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder, found = Path(output), {}

    def report(name: str, trainer: SSODTrainer, **more: Any) -> None:
        digests = comm.all_gather(digest(state_of(trainer)))
        found[name] = {"digests": digests, **more}

    for name, norm, methods in (
        ("toy", "GN", ("Toy",)),
        ("live_bn", "BN", ("Toy",)),
        ("threshold", "FrozenBN", ("ScoreThreshold", "PseudoBoxRegression")),
    ):
        cfg = with_squares(tiny_cfg(norm), Path(root), folder / name, methods)
        cfg.merge_from_list(
            ["SOLVER.IMS_PER_BATCH", 4, "SSOD.IMS_PER_BATCH_UNLABELED", 4, "SSOD.SNAPSHOT_DELAY", 3]
        )
        cfg.merge_from_list(
            ["SOLVER.CHECKPOINT_PERIOD", 4, "SOLVER.MAX_ITER", 7, "SSOD.SCORE_THRESHOLD", 0.1]
        )
        report(name, train(cfg))
        if name == "toy":
            comm.synchronize()
            if comm.is_main_process():
                (folder / name / "last_checkpoint").write_text("model_0000003.pth")
            comm.synchronize()
            report("toy_resumed", train(cfg, resume=True))
    # Stored labels: with re-weighting, and on a detector that only sees its own inputs.
    stored = ("ScoreThreshold", "PseudoBoxRegression")
    for name, methods, keys in (
        ("stored", (*stored, "UncertainNegatives"), []),
        ("stored_retinanet", stored, RETINANET),
    ):
        cfg = with_squares(tiny_cfg(), Path(root), folder / name, methods)
        cfg.merge_from_list([*keys, "SOLVER.IMS_PER_BATCH", 4, "SSOD.IMS_PER_BATCH_UNLABELED", 4])
        trainer = train(with_stored_labels(cfg, Path(root), folder / name))
        normalizers = comm.all_gather(getattr(trainer.core.student, "loss_normalizer", None))
        report(name, trainer, normalizers=normalizers)
    for name, methods in [*((name, (name,)) for name in METHOD_NAMES), ("full_stack", FULL_STACK)]:
        cfg = method_cfg(Path(root), folder / name, methods, 4)
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 4, "SSOD.IMS_PER_BATCH_UNLABELED", 4])
        report(name, train(cfg))
    for family in FAMILIES:
        cfg = method_cfg(Path(root), folder / family, stored, 4)
        cfg.merge_from_list([*KEYS[family], "SOLVER.IMS_PER_BATCH", 4])
        cfg.merge_from_list(["SSOD.IMS_PER_BATCH_UNLABELED", 4])
        report(family, train(cfg))
    for kind in QUERIES:
        cfg = method_cfg(Path(root), folder / kind, stored, 4)
        name, own = KINDS[kind]
        cfg.merge_from_list([*detr_keys(name), *own, "SOLVER.IMS_PER_BATCH", 4])
        cfg.merge_from_list(["SSOD.IMS_PER_BATCH_UNLABELED", 4, "SOLVER.OPTIMIZER", "AdamW"])
        # An untrained detector's scores lie around 0.01.
        cfg.merge_from_list(["SOLVER.BASE_LR", 1e-4, "SSOD.SCORE_THRESHOLD", 0.01])
        cfg.merge_from_list(["SSOD.PSEUDO_SCORE_FLOOR", 0.001])
        report(kind, train(cfg))
    for refresh in (
        "on_visit",
        "sweep",
    ):  # of CropBank: long enough to draw from what was published
        cfg = method_cfg(Path(root), folder / refresh, ("CropBank",), 6)
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "SSOD.IMS_PER_BATCH_UNLABELED", 4])
        cfg.merge_from_list(["SSOD.CROP_BANK.REFRESH", refresh, "SSOD.CROP_BANK.REFRESH_PERIOD", 3])
        cfg.merge_from_list(["SSOD.CROP_BANK.SNAPSHOT_PERIOD", 2])
        trainer = train(cfg)
        samples = trainer.core.last_batch.unlabeled
        mine = {
            "board": trainer.board.state_dict()["entries"]["CropBank"],
            "visited": trainer.core.methods["CropBank"].pseudo_bank.visited,
            "pasted_from_pseudo": sum(int(s.extras["CropBank"].banks.sum()) for s in samples),
        }
        report(f"CropBank {refresh}", trainer, ranks=comm.all_gather(mine))
    run_tools(Path(root), folder / "tools")
    equal = quota_free(with_squares(tiny_cfg(), Path(root), folder / "equal"))
    trainer = train(equal)
    report("equal", trainer)
    if comm.is_main_process():
        torch.save(state_of(trainer), folder / "equal.pth")
        (folder / "found.json").write_text(json.dumps(found))


def run_tools(root: Path, folder: Path) -> None:
    """Phases, stored labels and purification; what they write is compared by the tests."""
    cfg = with_squares(
        tiny_cfg(), root, folder / "phases", ("ScoreThreshold", "PseudoBoxRegression")
    )
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 4, "SSOD.IMS_PER_BATCH_UNLABELED", 4])
    cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2, "SSOD.BURN_IN_STEPS", 0])
    cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", 0.0, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0])
    cfg.merge_from_list(["DATASETS.TEST", ("squares_test",), "SSOD.VIS_PERIOD", 0])
    if comm.is_main_process():
        folder.mkdir()
        (folder / "config.yaml").write_text(cfg.dump())
    comm.synchronize()
    run_phases(str(folder / "config.yaml"), ["SSOD.MULTI_PHASE.PHASES", "1"])
    weights = str(folder / "phases" / "phase_0")
    pseudo_label(label_arguments(folder, weights, "labels.json"))
    arguments = ["--config-file", str(folder / "config.yaml"), "--wild", str(root / "unlabeled")]
    arguments += ["--keep", "5", "--output", str(folder / "purified"), "--size", "64"]
    arguments += ["--batch-size", "8", "--epochs", "2", "--prior", "0.5", "MODEL.WEIGHTS", weights]
    purify(build_parser().parse_args(arguments))


def label_arguments(folder: Path, weights: str, name: str) -> Namespace:
    """Of `ssod.tools.pseudo_label`, from the phases' config."""
    return Namespace(
        config_file=str(folder / "config.yaml"),
        opts=[],
        weights=[weights],
        output=str(folder / name),
        thresholds=None,
        tta=False,
        combine="agreed",
        share="0/1",
    )
