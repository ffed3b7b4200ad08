"""Trains from a dumped config with the tests' backbone and method, in a process of its own."""

import sys

import tiny  # noqa: F401  (registers the backbone)
import torch
import toy_method  # noqa: F401  (registers Toy)
from ssod.config import add_ssod_config
from ssod.engine.trainer import SSODTrainer

from detectron2.config import get_cfg

if __name__ == "__main__":
    torch.set_num_threads(1)
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.merge_from_file(sys.argv[1])
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume="--resume" in sys.argv)
    trainer.train()
