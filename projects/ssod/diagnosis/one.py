"""One run of a diagnosis, in a process of its own: a training run that may read the truth.

python -m ssod.diagnosis.one [--until STEP] --config-file FILE KEY VALUE ...
"""

from __future__ import annotations

import argparse

from ssod.diagnosis.oracle import register_oracle
from ssod.engine.setup import run_cli, setup
from ssod.engine.trainer import SSODTrainer
from ssod.sweep.one import end_with_parent


def run() -> None:
    parser = argparse.ArgumentParser(prog="python -m ssod.diagnosis.one", description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop here (the burn-in)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    register_oracle()
    trainer = SSODTrainer(setup(args))
    trainer.resume_or_load(resume=True)
    if args.until is not None:
        # The schedule stays that of the whole run. So all rows can start from this burn-in.
        trainer.max_iter = args.until
    trainer.train()


if __name__ == "__main__":
    end_with_parent()
    run_cli(run)
