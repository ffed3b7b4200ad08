"""The plan of a sweep: rows (configs with overrides) x seeds, and the folder of each run.

A row is written `[name=]file.yaml[,KEY=VALUE,...]`. Its run with seed 2 is
`<output>/<name>/seed_2`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import yaml
from detectron2.config import CfgNode

from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.report.tables import Layout
from ssod.resources import find_config, near_configs
from ssod.utils.atomic import write_atomically

PLAN_FILE = "sweep.json"
# The sweep sets these keys itself.
_OWN_KEYS = {"SEED": "use --seeds", "OUTPUT_DIR": "use --output"}
# A comma before KEY= separates overrides. Other commas belong to values such as ("PIM","CropBank").
_OVERRIDES = re.compile(r",(?=[A-Z][A-Z0-9_]*(?:\.\w+)*=)")


@dataclass(frozen=True)
class Row:
    """One config. `overrides`: KEY VALUE KEY VALUE ... They take precedence over those of the whole
    sweep.
    """

    name: str
    config: str
    overrides: Tuple[str, ...] = ()

    @property
    def source(self) -> str:
        pairs = zip(self.overrides[0::2], self.overrides[1::2])
        return ",".join([self.config, *(f"{key}={value}" for key, value in pairs)])


@dataclass(frozen=True)
class Plan:
    """A checked sweep. `opts`: overrides of every row. `command`: the user's command line."""

    output: str
    rows: Tuple[Row, ...]
    seeds: Tuple[int, ...]
    opts: Tuple[str, ...] = ()
    baseline: str = ""
    upper: str = ""
    columns: Tuple[str, ...] = ("AP", "AP50", "AP75")
    mean_of: Tuple[str, ...] = ()
    command: str = ""

    def folder(self, row: Row, seed: int) -> str:
        return os.path.join(os.path.abspath(self.output), row.name, f"seed_{seed}")

    def overrides(self, row: Row, seed: int) -> List[str]:
        """KEY VALUE ... of one run. `{seed}` in a value becomes the seed."""
        asked = [word.replace("{seed}", str(seed)) for word in (*self.opts, *row.overrides)]
        return [*asked, "SEED", str(seed), "OUTPUT_DIR", self.folder(row, seed)]

    def config(self, row: Row, seed: int) -> CfgNode:
        if not os.path.isfile(find_config(row.config)):
            raise UserError(
                f"--configs: there is no file {row.config} (row {row.name}); {near_configs(row.config)}"
            )
        try:
            return load_config(row.config, self.overrides(row, seed))
        except UserError as error:
            raise UserError(f"Row {row.name}: {error}") from None

    def jobs(self) -> Iterator[Tuple[Row, int]]:
        """The runs, seed by seed. So a sweep that is stopped early still has every row."""
        return ((row, seed) for seed in self.seeds for row in self.rows)

    def layout(self) -> Layout:
        columns: Dict[str, List[str]] = {name: [name] for name in self.columns}
        for text in self.mean_of:
            name, _, metrics = text.partition("=")
            columns[name] = metrics.split(",")
        return Layout(columns, self.baseline, self.upper)


def parse_row(text: str) -> Row:
    """Reads `[name=]file.yaml[,KEY=VALUE,...]`. Without a name, the row has the file's name.

    Raises:
        UserError: no file is named, the name cannot be that of a folder, or an override is a key
            that the sweep sets.
    """
    head, *pairs = _OVERRIDES.split(text)
    name, equals, config = head.partition("=")
    if not equals or os.sep in name:  # a path may contain "="
        name, config = "", head
    if not config:
        raise UserError(f"--configs {text}: no file is named; write [name=]file.yaml[,KEY=VALUE].")
    name = name or os.path.splitext(os.path.basename(config))[0]
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(
            f"--configs {text}: {name!r} names a folder; use letters, digits and _ . + - only."
        )
    overrides: List[str] = []
    for pair in pairs:
        key, _, value = pair.partition("=")
        overrides += [key, value]
    check_overrides(overrides, f"--configs {text}")
    return Row(name, config, tuple(overrides))


def check_overrides(opts: List[str], source: str) -> None:
    """Refuses overrides of seed and folder, because the sweep gives each run its own."""
    for key in opts[0::2]:
        if key in _OWN_KEYS:
            raise UserError(f"{source}: {key} is set by the sweep; {_OWN_KEYS[key]}.")


def check_plan(plan: Plan) -> None:
    """Checks everything that does not need a config.

    Raises:
        UserError: names or seeds are given twice, an end of the gap is not a row, or a column
            cannot be read.
    """
    names = [row.name for row in plan.rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--configs: two rows are called {name}; name one of them: other_name=file.yaml."
            )
    if len(set(plan.seeds)) < len(plan.seeds):
        raise UserError(f"--seeds {' '.join(map(str, plan.seeds))}: one is given twice; remove it.")
    if min(plan.seeds) < 0:
        raise UserError(
            f"--seeds {min(plan.seeds)}: use 0 or more; below 0 a run is not repeatable."
        )
    for option, name in (("--baseline", plan.baseline), ("--upper", plan.upper)):
        if name and name not in names:
            raise UserError(
                f"{option} {name} is no row of this sweep: use one of {', '.join(names)}."
            )
    if plan.upper and (not plan.baseline or plan.upper == plan.baseline):
        raise UserError("--upper needs another row as --baseline: a gap has two ends.")
    for text in plan.mean_of:
        if not re.fullmatch(r"[^=,]+=[^=,]+(,[^=,]+)*", text):
            raise UserError(f"--mean-of {text}: write NAME=METRIC,METRIC, as in rarest=AP-8,AP-9.")


def check_configs(plan: Plan) -> List[CfgNode]:
    """Loads every row's config, and compares it with the configs in the run folders.

    Returns:
        One config per row, with the first seed.

    Raises:
        UserError: a config cannot be loaded, rows are tested on different datasets or on none, or a
            run was made with another configuration.
    """
    first = [plan.config(row, plan.seeds[0]) for row in plan.rows]
    for row, cfg in zip(plan.rows, first):
        if not cfg.DATASETS.TEST:
            raise UserError(
                f"Row {row.name}: DATASETS.TEST is empty, so there is nothing to compare."
            )
        if cfg.DATASETS.TEST != first[0].DATASETS.TEST:
            raise UserError(
                f"Row {row.name} is tested on {', '.join(cfg.DATASETS.TEST)}, row {plan.rows[0].name} on "
                f"{', '.join(first[0].DATASETS.TEST)}: give DATASETS.TEST on the command line, for all."
            )
    for row, seed in plan.jobs():
        folder = plan.folder(row, seed)
        change = changed_since(plan.config(row, seed), folder)
        if change:
            raise UserError(
                f"{folder} was run with another configuration ({change}): name another --output, or remove that folder."
            )
    return first


def changed_since(cfg: CfgNode, folder: str) -> str:
    """Compares a config with the one that a run in `folder` wrote at its start.

    If the run's file lacks a key, today's default is used. So old runs stay valid when a new
    version adds keys.

    Returns:
        The first difference in words. Empty if there is no difference or no run.
    """
    path = os.path.join(folder, "config.yaml")
    if not os.path.exists(path):
        return ""
    try:
        stored = dict(_flatten(yaml.safe_load(Path(path).read_text())))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return "its config.yaml cannot be read"
    today = dict(_flatten(yaml.safe_load(cfg.dump())))
    default: Optional[Dict[str, Any]] = None
    for key, value in today.items():
        if key == "OUTPUT_DIR":  # the folder may have been moved
            continue
        if key not in stored and default is None:
            default = dict(_flatten(yaml.safe_load(load_config("").dump())))
        before = stored[key] if key in stored else (default or {}).get(key, value)
        if before != value:
            return f"{key} was {before!r}, now {value!r}"
    return ""


def save_plan(plan: Plan) -> None:
    """Writes `<output>/sweep.json`, from which `--output` alone continues."""
    text = json.dumps(dataclasses.asdict(plan), indent=1)
    path = os.path.join(plan.output, PLAN_FILE)
    write_atomically(path, lambda file: file.write(text.encode()))


def load_plan(output: str) -> Plan:
    """Reads it back.

    Raises:
        UserError: there is no plan, or it is not readable.
    """
    path = os.path.join(output, PLAN_FILE)
    try:
        data: Dict[str, Any] = json.loads(Path(path).read_text())
        rows = tuple(Row(r["name"], r["config"], tuple(r["overrides"])) for r in data.pop("rows"))
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        if not lists["seeds"] or not all(isinstance(seed, int) for seed in lists["seeds"]):
            raise ValueError("no list of seeds")
        return Plan(**{**data, **lists, "output": output, "rows": rows})
    except FileNotFoundError:
        raise UserError(
            f"{output} holds no sweep ({PLAN_FILE}): add --configs and --seeds, or check --output."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): add --configs and --seeds.") from None


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
