"""Evaluates several detectors of one config together, fused by weighted boxes fusion, on
DATASETS.TEST.

ssod ensemble --config-file X.yaml --weights A.pth B.pth [...] [--num-gpus N]

Predictions go to OUTPUT_DIR/inference/ensemble, the numbers to ensemble.json in it.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import List, Optional

from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.tools.pseudo_label import add_launch_arguments, launch_from


def work(args: argparse.Namespace) -> None:
    """Runs the command in every process."""
    from detectron2.utils import comm

    from ssod.evaluation import evaluate
    from ssod.evaluation.build import format_metrics, prepare_evaluation
    from ssod.pseudo_labels.ensemble import load_ensemble
    from ssod.utils.atomic import write_atomically

    cfg = load_config(args.config_file, split_opts(args.opts))
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name a dataset to evaluate on.")
    prepare_evaluation(cfg, ("TEST",))
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", "ensemble")
    model = load_ensemble(cfg, args.weights)
    results = evaluate(cfg, model, list(cfg.DATASETS.TEST), folder)
    if comm.is_main_process():
        record = json.dumps({"weights": args.weights, "results": results}, indent=1).encode()
        write_atomically(os.path.join(folder, "ensemble.json"), lambda file: file.write(record))
        for dataset, tasks in results.items():
            for task, metrics in tasks.items():
                print(f"{dataset} {task}: {format_metrics(metrics)}")


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod ensemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE")
    add_launch_arguments(parser)
    launch_from(work, parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    run_cli(main)
