"""Trains from a dumped config with the tests' backbone and method, in a process of its own."""

import argparse
import os
import sys

import ssod  # noqa: F401  isort: skip  (before Detectron2, which needs its shims)

import torch

import tiny  # noqa: F401  (registers the backbone)
import toy_method  # noqa: F401  (registers Toy)
from ssod.engine.setup import setup
from ssod.engine.trainer import SSODTrainer

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    resume = "--resume" in sys.argv
    path, *opts = [argument for argument in sys.argv[1:] if argument != "--resume"]
    trainer = SSODTrainer(setup(argparse.Namespace(config_file=path, opts=opts)))
    trainer.resume_or_load(resume=resume)
    trainer.train()
