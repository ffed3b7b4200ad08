"""ssod report OUTPUT_DIR [OUTPUT_DIR ...] [--output report.html]"""

from __future__ import annotations

import argparse
import os
from typing import List, Optional

from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.plotting.run_data import load_runs
from ssod.report.page import write_page


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod report",
        description="Write one HTML page about one or several runs: curves, pseudo-labels, pictures. It needs no network "
        "and works while the runs are going on.",
    )
    parser.add_argument("runs", nargs="+", metavar="OUTPUT_DIR", help="folder of a training run")
    parser.add_argument(
        "--output",
        help="file to write (default: report.html in the run's folder, or here for several)",
    )
    args = parser.parse_args(argv)
    runs = load_runs(args.runs)
    output = args.output or os.path.join(runs[0].folder if len(runs) == 1 else ".", "report.html")
    try:
        write_page(runs, output)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror}): choose another --output."
        ) from None
    print(f"Wrote {output}")


if __name__ == "__main__":
    run_cli(main)
