"""One run of a sweep in its own process. It does the same as `train_net.py --resume` on one device.

python -m ssod.sweep.one --config-file FILE KEY VALUE ...
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys

from ssod.engine.setup import run_cli, setup
from ssod.engine.trainer import SSODTrainer

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ends this process with its parent, so that a killed sweep leaves no training running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run() -> None:
    parser = argparse.ArgumentParser(prog="python -m ssod.sweep.one", description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    trainer = SSODTrainer(setup(parser.parse_args()))
    trainer.resume_or_load(resume=True)
    trainer.train()


if __name__ == "__main__":
    end_with_parent()
    run_cli(run)
