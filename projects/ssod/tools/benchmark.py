"""Times mutual-learning steps and their lower bound; docs/benchmark.md explains the numbers.

ssod benchmark --config-file X.yaml [--compare OTHER.yaml] [--steps N] [--json] [KEY
    VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any, Dict, List, Optional

from ssod.benchmark.bench import Bench, log_to_stderr
from ssod.benchmark.measure import WARM_UP, compare, measure
from ssod.engine.setup import load_config, run_cli, split_opts


def table(found: Dict[str, Any]) -> str:
    """The result of `measure` as a text table."""
    step = found["step_seconds"]
    bound = found["lower_bound_split_seconds"]
    heading = f"{'':<18}{'step':>12}" + (f"{'lower bound':>15}" if bound else "")
    lines = [heading]
    for name, seconds in found["split_seconds"].items():
        own = f"{bound[name] * 1e3:12.1f} ms" if name in bound else ""
        lines.append(f"{name:<18}{seconds * 1e3:9.1f} ms{own}")
    total = f"{'all':<18}{step * 1e3:9.1f} ms"
    if bound:
        total += f"{found['lower_bound_seconds'] * 1e3:12.1f} ms"
    lines.append(f"{total}   (medians of {found['steps']})")
    if bound:
        lines.append(f"{'step / bound':<18}{found['step_over_lower_bound']:9.3f}")
    lines.append(f"{'peak memory':<18}{found['peak_memory_bytes'] / 2**20:9.0f} MiB")
    images = found["images_per_step"]
    lines.append(
        f"{images['student_labeled']} labelled + {images['student_unlabeled']} unlabelled views"
        + (f" + {images['student_extra']} of methods" if images["student_extra"] else "")
        + f", {images['teacher']} for the teacher; {found['device']}, {found['threads']} thread(s), "
        f"{found['workers']} worker(s), PyTorch {found['torch']}"
    )
    return "\n".join(lines)


def comparison_table(found: Dict[str, Any], names: List[str]) -> str:
    """The result of `compare` as a text table."""
    width = max(len(name) for name in names) + 2
    lines = []
    for name, key in zip(names, ("first", "second")):
        lines.append(f"{name:<{width}}{found[key]['step_seconds'] * 1e3:9.1f} ms a step")
        for section, seconds in found[key].get("split_seconds", {}).items():
            lines.append(f"  {section:<{width - 2}}{seconds * 1e3:9.1f} ms")
    lines.append(f"{'first / second':<{width}}{found['first_over_second']:9.3f}")
    return "\n".join(lines)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 1")
    return int(text)


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod benchmark",
        description="Time mutual-learning steps, part by part, beside plain Detectron2 on the same images.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--compare", metavar="FILE", help="a second config: alternate the two and print the ratio"
    )
    parser.add_argument("--steps", type=_positive, default=30, help=f"after {WARM_UP} to warm up")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.add_argument(
        "--no-lower-bound",
        action="store_true",
        help="only our steps, one after another as in training (peak memory and waiting for data are then training's)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for both configs, at the end"
    )
    args = parser.parse_args(argv)
    log_to_stderr()
    opts = split_opts(args.opts)
    paths = [args.config_file] + ([args.compare] if args.compare else [])
    configs = [load_config(path, opts) for path in paths]
    with tempfile.TemporaryDirectory(prefix="ssod-benchmark-") as folder:
        benches = [Bench(cfg, f"{folder}/{index}") for index, cfg in enumerate(configs)]
        if args.compare:
            found = compare(benches[0], benches[1], args.steps)
            text = comparison_table(found, paths)
        else:
            found = measure(benches[0], args.steps, not args.no_lower_bound)
            text = table(found)
    print(json.dumps(found) if args.json else text)


if __name__ == "__main__":
    run_cli(main)
