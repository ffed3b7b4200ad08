"""The table of subcommands. A new one is one line: its name, its module, and its line in the help.

The module has a function `main(argv)`, which raises `UserError` for bad input and may return an
exit status. `python -m MODULE` runs it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Tuple


@dataclass(frozen=True)
class Command:
    """One subcommand. `help`: one line, as the help prints it."""

    name: str
    module: str
    help: str


GROUPS: Dict[str, Tuple[Command, ...]] = {
    "First steps": (
        Command("doctor", "ssod.tools.doctor", "check the installation, or what is in a dataset"),
        Command("demo", "ssod.tools.demo", "train on drawn scenes, some minutes, with a report"),
        Command("start", "ssod.tools.start", "from a folder of images to splits and a config"),
        Command("configs", "ssod.tools.configs", "list the configs that come with ssod"),
    ),
    "Train and evaluate": (
        Command("train", "ssod.tools.train", "train a detector from a config"),
        Command("evaluate", "ssod.tools.evaluate", "AP of a trained detector on DATASETS.TEST"),
        Command("ensemble", "ssod.tools.ensemble", "AP of several detectors together"),
        Command("calibrate", "ssod.tools.calibrate", "AP with scores that ImageNet calibrates"),
        Command("phases", "ssod.tools.run_phases", "multi-phase training, one run a phase"),
        Command(
            "generations", "ssod.tools.run_generations", "self-training in generations (CReST)"
        ),
    ),
    "Data and labels": (
        Command("splits", "ssod.tools.make_splits", "divide a dataset: labelled and unlabelled"),
        Command("next", "ssod.tools.next", "rank unlabelled images by what a label would teach"),
        Command("label", "ssod.tools.label", "boxes of a detector for an annotation tool"),
        Command(
            "pseudo-label", "ssod.tools.pseudo_label", "labels that SSOD.PSEUDO_LABELS trains on"
        ),
        Command("purify", "ssod.tools.purify", "choose useful images from a wild folder"),
        Command("digit-scenes", "ssod.tools.digit_scenes", "draw the dataset of the demo"),
    ),
    "See and measure": (
        Command("report", "ssod.tools.report", "one HTML page about runs, finished or not"),
        Command("visualise", "ssod.tools.visualise", "draw labels, views or detections"),
        Command("sweep", "ssod.tools.sweep", "configs x seeds, with a table of the results"),
        Command("diagnose", "ssod.tools.diagnose", "what limits learning without labels"),
        Command("benchmark", "ssod.tools.benchmark", "where the time of a step goes"),
        Command("traffic", "ssod.tools.traffic", "bytes that ranks send each other in a step"),
        Command("scale", "ssod.tools.scale", "start and memory with millions of images"),
        Command("gpu-evidence", "ssod.tools.gpu_evidence", "tests and step times on a GPU"),
    ),
    "Deploy": (
        Command("export", "ssod.tools.export", "a model that runs without ssod"),
        Command("latency", "ssod.tools.latency", "seconds an image in each exported form"),
    ),
}

# Other spellings, which the help does not list.
ALIASES: Dict[str, str] = {"visualize": "visualise", "eval": "evaluate"}


def commands() -> Iterator[Command]:
    """All of them, in the order of the help."""
    for group in GROUPS.values():
        yield from group


def find(name: str) -> Optional[Command]:
    """The subcommand of a name, an alias, or the name of a module of `ssod.tools`."""
    name = ALIASES.get(name, name)
    for command in commands():
        if name in (command.name, command.module.rsplit(".", 1)[-1]):
            return command
    return None
