"""One part of the evidence in a process of its own: `python -m ssod.gpu_evidence.part NAME --output
FILE`.

Each part has a process of its own. If it runs out of memory or time, the other parts go on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from typing import Any, List, Optional

from ssod.benchmark.bench import log_to_stderr
from ssod.gpu_evidence.call_cost import call_cost
from ssod.gpu_evidence.scenes import FULL, TINY
from ssod.gpu_evidence.steps import CASES, CPU_CASES, time_cases
from ssod.utils.atomic import write_atomically


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ssod.gpu_evidence.part", description=__doc__)
    parser.add_argument("name", choices=("call_cost", "steps"))
    parser.add_argument("--output", required=True, help="a JSON file, written anew after each row")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny images: a trial of the command")
    args = parser.parse_args(argv)
    log_to_stderr()
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    sizes = TINY if args.tiny else FULL

    def write(value: Any) -> None:
        text = json.dumps(value, indent=1)
        write_atomically(args.output, lambda file: file.write(text.encode()))

    if args.name == "call_cost":
        write(call_cost(sizes, args.device))
        return
    # On a CPU half precision and compiling take minutes.
    cases = [
        case for case in CASES if args.device == "cuda" or (case.dtype, case.variant) in CPU_CASES
    ]
    with tempfile.TemporaryDirectory(prefix="ssod-gpu-") as folder:
        time_cases(cases, os.path.realpath(folder), sizes, args.device, write)


if __name__ == "__main__":
    main()
