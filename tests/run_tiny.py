"""Trains from a dumped config with the tests' backbone and method, in a process of its own."""

import sys

from ssod import compat

compat.apply()

import torch  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402

import tiny  # noqa: E402,F401  (registers the backbone)
import toy_method  # noqa: E402,F401  (registers Toy)
from ssod.config import add_ssod_config  # noqa: E402
from ssod.engine.trainer import SSODTrainer  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.merge_from_file(sys.argv[1])
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume="--resume" in sys.argv)
    trainer.train()
