#!/usr/bin/env python
"""Trains or evaluates a semi-supervised detector: `ssod train`, as Detectron2's projects start it.

python train_net.py --config-file configs/digit_scenes/unbiased_teacher.yaml [--num-gpus N]
    [--resume] [KEY VALUE ...]
python train_net.py --config-file ... --eval-only [--model teacher|student] MODEL.WEIGHTS OUTPUT_DIR

`torchrun --nproc-per-node N train_net.py ...` works as well.
"""

from ssod.missing import explain_failed_imports

explain_failed_imports()

from ssod.engine.setup import run_cli  # noqa: E402
from ssod.tools.train import main  # noqa: E402

if __name__ == "__main__":
    run_cli(main)
