"""python -m ssod.tools.config_table [--output docs/configs.md]

The page that lists every config beside its published and its measured results. A config states what
was published in one line of its header, `# Published: VALUES (SOURCE)`; what was measured stands in
the tables of `docs/results`. The line below it, the GPU-hours to expect, is written here too.
"""

from __future__ import annotations

import argparse
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from detectron2.config import CfgNode

from ssod.engine.setup import load_config, run_cli
from ssod.errors import UserError
from ssod.report.gpu_hours import gpu_hours
from ssod.utils.atomic import write_atomically

_PUBLISHED = re.compile(r"^# Published: (?P<values>[^()]+) \((?P<source>.+)\)$")
_BURN_IN = re.compile(r"SSOD\.BURN_IN_CHECKPOINT=[^,]+")
_HOURS = re.compile(r"^# GPU-hours: about (\S+) ", re.MULTILINE)

_HEAD = """# Configs

Written by `python -m ssod.tools.config_table`; change the configs' headers or `docs/results`, not this page.

*Published* is what the papers print, with its source. *Measured here* is what this code has reached, with the number of
runs and the page that describes them. That page says whether the method has changed since. The sections above playing
cards need data sets and some eight GPUs that were not at hand, so none of their rows was measured. Their *GPU-hours* are
estimates for V100s in single precision. They follow from the images that a step shows to student and teacher, and from
the speeds that Detectron2 publishes for these detectors (`ssod/report/gpu_hours.py`).
"""

# Folder of configs -> its heading, and a sentence that holds for all of its rows.
_SECTIONS = {
    "coco_standard": (
        "COCO-standard",
        "A share of train2017 labelled, the rest of it unlabelled; AP on val2017, fold 0 of 5.",
    ),
    "coco_additional": (
        "COCO-additional",
        "All of train2017 labelled, unlabeled2017 unlabelled; AP on val2017.",
    ),
    "voc": ("VOC07 → VOC12", "VOC07 trainval labelled, VOC12 trainval unlabelled; VOC07 test."),
    "coco_imagenet": (
        "COCO-ImageNet",
        "All of train2017 labelled, a fifth of ImageNet unlabelled; AP on val2017.",
    ),
    "ci_ssod": ("Class-imbalanced settings", "CI-SSOD's, with Soft Teacher as host."),
    "multi_phase": (
        "Multi-phase learning",
        "Each config runs all phases; the number is the ensemble's. co-35, co-115: COCO 2014.",
    ),
    "pudet": ("PUDet", "All of train2017 labelled, ImageNet as the wild pool; AP on val2017."),
    "cards": (
        "Playing cards",
        "25 of 250 photographs labelled, shrunk for a CPU; test AP of each run's best teacher, chosen on validation images.",
    ),
    "bccd": (
        "Blood cells (BCCD)",
        "20 of 205 photographs labelled, shrunk for a CPU; test AP of each run's best teacher, chosen on validation images.",
    ),
    "nuclei": (
        "Nuclei, with masks",
        "10 of 200 microscope images labelled, Mask R-CNN, on a CPU.",
    ),
    "digit_scenes": (
        "Digit scenes",
        "The embedded data set; test AP of each run's best teacher, chosen on validation images.",
    ),
}

# No GPU is needed.
_SMALL = ("cards", "bccd", "nuclei", "digit_scenes")

# By a part of the config's name, for headings that cover several settings.
_SETTINGS = {
    "_split1": "COCO sub-task, split 1",
    "_split2": "COCO sub-task, split 2",
    "_objects365": "COCO → Objects365",
    "_lvis": "LVIS, 10 %",
    "co35_to_co80": "co-35 → co-80",
    "co115_to_co120": "co-115 → co-120",
    "voc07_to_voc12": "VOC07 → VOC12",
}


@dataclass(frozen=True)
class Published:
    """A header's statement. values: "AP 26.07", or "nothing". source: paper and table."""

    values: str
    source: str


def read_published(path: Path) -> Optional[Published]:
    """The statement in a config's header, None if there is none.

    Raises:
        UserError: it is not of the form above, or there are several.
    """
    lines = [line for line in path.read_text().splitlines() if line.startswith("# Published")]
    if not lines:
        return None
    found = _PUBLISHED.match(lines[0])
    if found is None or len(lines) > 1:
        raise UserError(f"{path}: write one line '# Published: VALUES (SOURCE)' into its header.")
    return Published(found["values"], found["source"])


def expected_hours(path: Path, cfg: CfgNode) -> str:
    """The estimate for a config, to two digits: "1,300"."""
    lines = path.read_text().splitlines()
    hours = gpu_hours(cfg, all_phases="ssod.tools.run_phases" in lines[0])
    if "ssod.tools.run_generations" in lines[0]:
        hours *= cfg.SSOD.CREST.GENERATIONS
    return f"{float(f'{hours:.1e}'):,.0f}"


def write_header(path: Path, hours: str) -> str:
    """The config's text with its line about GPU-hours below the launch command and what was
    published.
    """
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# GPU-hours")]
    place = 2 if lines[1:2] and lines[1].startswith("# Published") else 1
    lines.insert(place, f"# GPU-hours: about {hours} (V100, estimated)")
    return "\n".join(lines) + "\n"


def read_hours(path: Path) -> str:
    """What `write_header` has written, "" where no GPU is needed."""
    found = _HOURS.search(path.read_text())
    return found[1] if found else ""


def read_measured(results: Path) -> Dict[str, List[str]]:
    """Config -> its measured results, from `table.csv` (sweep) and `summary.csv` (run_phases)."""
    found: Dict[str, List[str]] = {}
    for table in sorted(results.rglob("table.csv")):
        page = _page(results, table)
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if not row.get("AP_mean"):
                    continue
                spread = f" ± {float(row['AP_std']):.1f}" if row["AP_std"] else ""
                runs = f"{row['AP_n']} run" + "s" * (row["AP_n"] != "1")
                config, _, overrides = row["config"].partition(",")
                overrides = _BURN_IN.sub("a shared burn-in", overrides)
                changed = f" with {overrides}" if overrides else ""
                value = f"{float(row['AP_mean']):.1f}{spread}{changed} ({runs}, [{table.parent.name}]({page}))"
                found.setdefault(config, []).append(value)
    for table in sorted(results.rglob("summary.csv")):
        with table.open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if (r["images"], r["metric"]) == ("all", "AP")]
        if not rows:
            continue
        values = ", ".join(f"phase {row['phase']}: {float(row['value']):.1f}" for row in rows)
        value = f"{values} (1 run, [{table.parent.name}]({_page(results, table)}))"
        found.setdefault(rows[0]["config"], []).append(value)
    return found


def _page(results: Path, table: Path) -> str:
    return f"{results.name}/{table.relative_to(results).with_suffix('.md').as_posix()}"


def setting(cfg: CfgNode, name: str) -> str:
    """The data of a row, if the section's heading does not say it."""
    for part, title in _SETTINGS.items():
        if part in name:
            return title
    share = re.search(r"/coco_([\d.]+)pct_", str(cfg.SSOD.DATASETS.get("coco_labeled", "")))
    return f"{share[1]} %" if share else ""


def headers(configs: Path) -> Dict[Path, str]:
    """Every config that needs GPUs, with its GPU-hours."""
    paths = [
        path for folder in _SECTIONS if folder not in _SMALL for path in _runs(configs / folder)
    ]
    return {
        path: write_header(path, expected_hours(path, load_config(str(path)))) for path in paths
    }


def _runs(folder: Path) -> List[Path]:
    found = sorted(folder.rglob("*.yaml"), key=_natural)
    return [path for path in found if not path.name.startswith("base")]


def _natural(path: Path) -> List[Tuple[float, str]]:
    """Sorts 2pct before 10pct."""
    parts = re.split(r"(\d+(?:\.\d+)?)", path.with_suffix("").as_posix())
    return [(float(part), "") if k % 2 else (-1.0, part) for k, part in enumerate(parts)]


def write_page(configs: Path, results: Path) -> str:
    """The whole page, in Markdown; GPU-hours as the configs' headers have them."""
    measured = read_measured(results)
    parts = [_HEAD]
    for folder, (heading, remark) in _SECTIONS.items():
        rows = []
        for path in _runs(configs / folder):
            published = read_published(path)
            cfg = load_config(str(path))
            own = path.relative_to(configs).as_posix()
            cells = [
                f"[{own.split('/', 1)[1].removesuffix('.yaml')}](../configs/{own})",
                setting(cfg, path.stem),
                ", ".join(cfg.SSOD.METHODS) or "supervised",
                read_hours(path),
                f"{published.values} ({published.source})" if published else "",
                ", ".join(measured.get(f"configs/{own}", [])) or "–",
            ]
            rows.append(cells)
        parts.append(f"## {heading}\n\n{remark}\n\n{_table(rows)}")
    return "\n".join(parts)


def _table(rows: List[List[str]]) -> str:
    """Columns that are empty in all rows are left out."""
    head = ["config", "setting", "methods", "GPU-hours", "published", "measured here"]
    kept = [k for k in range(len(head)) if any(row[k] for row in rows)]
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line[k] for k in kept) + " |\n" for line in lines)


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m ssod.tools.config_table",
        description="Write the page that lists every config with its published and measured results. Run it in the "
        "repository's root.",
    )
    parser.add_argument("--output", default="docs/configs.md", help="file (default: %(default)s)")
    args = parser.parse_args(argv)
    if not Path("configs").is_dir():
        raise UserError("There is no folder configs here: run this in the repository's root.")
    for path, text in headers(Path("configs")).items():
        path.write_text(text)
    page = write_page(Path("configs"), Path("docs/results"))
    write_atomically(args.output, lambda file: file.write(page.encode()))
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    run_cli(main)
