"""The evidence as Markdown."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from tabulate import tabulate

_MIB = 2**20


def markdown(value: Dict[str, Any]) -> str:
    """The page of the results of `runner.run_parts`.

    Args:
        value: "machine": name to text; "parts": the fields of `Outcome`, one dict a part.
    """
    about = value["machine"]
    device = f"{about['device']}, {about['cores']} cores, Python {about['python']}"
    versions = f"PyTorch {about['torch']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}"
    lines = ["# Measured on a GPU", "", f"    {about['command']}", "", f"{device}, {versions}.", ""]
    rows = [(part["name"], part["state"], f"{part['seconds']:.0f}") for part in value["parts"]]
    lines += [_table(rows, ("part", "outcome", "seconds")), ""]
    writers = {"tests": _tests, "steps": _steps, "call_cost": _call_cost, "tables": _log}
    for part in value["parts"]:
        if part["name"] in writers and part["tail"]:
            lines += writers[part["name"]](part)
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _log(part: Dict[str, Any]) -> List[str]:
    return [f"## {part['name']}", "", *part["tail"], ""]


def _tests(part: Dict[str, Any]) -> List[str]:
    return ["## Tests that need a GPU", "", "```", *part["tail"], "```", ""]


def _steps(part: Dict[str, Any]) -> List[str]:
    rows = part["found"]["rows"] if part["found"] else []
    lines = ["## A mutual-learning step", ""]
    good = [row for row in rows if "error" not in row]
    if good:
        images = good[0]["images_per_step"]
        lines += [
            f"{images['student_labeled']} labelled and {images['student_unlabeled']} unlabelled views for the student, "
            f"{images['teacher']} for the teacher, {good[0]['workers']} loader workers. "
            "Step: median (least to most) of steps one after another.",
            "",
        ]
    table = []
    for row in rows:
        head = (row["system"], row["dtype"], row["variant"])
        if "error" in row:
            table.append((*head, row["error"], "", "", "", ""))
            continue
        low, high = (f"{1e3 * seconds:.0f}" for seconds in row["alone_spread"])
        ratio = row.get("step_over_lower_bound")
        table.append(
            (
                *head,
                f"{1e3 * row['alone_seconds']:.0f} ({low} to {high})",
                f"{ratio:.3f}" if ratio else "",
                f"{1e3 * row['data_wait_seconds']:.1f}",
                f"{row['peak_memory_bytes'] / _MIB:.0f}",
                f"{row['pseudo_boxes_per_image']:.1f}",
            )
        )
    names = ("system", "type", "variant", "step, ms", "step / lower bound")
    lines += [_table(table, (*names, "data wait, ms", "peak, MiB", "labels an image")), ""]
    for row in good:
        if row.get("split_seconds"):
            bound = row["lower_bound_split_seconds"]
            parts = [
                (name, f"{1e3 * s:.1f}", f"{1e3 * bound[name]:.1f}" if name in bound else "")
                for name, s in row["split_seconds"].items()
            ]
            lines += [f"### {row['system']}, {row['dtype']}: parts of a step", ""]
            lines += [_table(parts, ("part", "ms", "lower bound, ms")), ""]
    return lines


def _call_cost(part: Dict[str, Any]) -> List[str]:
    rows = [
        (
            name,
            f"{1e3 * found['call_seconds']:.1f}",
            f"{1e3 * found['seconds_per_megapixel']:.1f}",
            f"{found['call_cost_pixels']:.0f}",
        )
        for name, found in (part["found"] or {}).items()
    ]
    names = ("type", "a call, ms", "a megapixel, ms", "call cost, pixels")
    return ["## Cost of one more call of the backbone", "", _table(rows, names), ""]
