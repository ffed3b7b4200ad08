"""From a folder of images, some of them labelled, to splits and a config."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

import ssod
from ssod.data.declarations import parse_declaration, resolve_path
from ssod.data.formats.annotated import ImageLabels
from ssod.data.formats.find import FoundSet
from ssod.data.formats.walk import files_below
from ssod.data.splits import sealed, write_files
from ssod.errors import UserError, first_names
from ssod.own_data.choices import Choice, render
from ssod.own_data.collection import Collection, collect, to_coco
from ssod.own_data.examine import examine
from ssod.own_data.machine import Machine
from ssod.own_data.recipe import Data, choose
from ssod.own_data.sheet import write_sheet
from ssod.own_data.splitting import Parts, divide
from ssod.utils.atomic import write_atomically

# Pictures that cameras and phones write and that training does not read.
_OTHER_SUFFIXES = (
    ".heic",
    ".heif",
    ".avif",
    ".gif",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raw",
)

_FEW = 5  # boxes of a class
_NO_TEST = (
    "No image is kept for a test. The AP at the end is that of the validation images, and flatters the teacher that was "
    "chosen on them."
)


@dataclass(frozen=True)
class Options:
    """Args: percent: of the labelled images, for validation. weights: MODEL.WEIGHTS, "" for the
    package's.
    """

    folder: str
    output: str
    percent: float
    seed: int
    weights: str
    force: bool


def data_path(folder: str) -> str:
    """The folder as the config names it: relative as typed, if that leads to the same place from
    there.
    """
    folder = os.path.normpath(folder)
    return folder if resolve_path(folder) == folder else os.path.abspath(folder)


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies in it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def name_of(folder: str) -> str:
    """The folder's name, of letters, digits and "_"; it names the data sets and the output."""
    name = re.sub(r"\W+", "_", Path(os.path.abspath(folder)).name).strip("_").lower()
    return name or "images"


def best_format(folder: str, found: Sequence[FoundSet]) -> Tuple[Collection, List[str]]:
    """The images of a folder with the labels of the format that labels most of them, and notes on
    the others.

    Raises:
        UserError: no format can be read.
    """
    formats = list(dict.fromkeys(one.format for one in found))
    read: List[Collection] = []
    notes, errors = [], []
    for kind in formats:
        sets = [one for one in found if one.format == kind]
        pairs = [(parse_declaration(folder, one.node), one.split) for one in sets]
        try:
            read.append(collect(pairs, folder, [kind] * len(pairs), whole_folder=True))
        except UserError as error:
            errors.append(error)
            notes.append(f"{kind} cannot be read: {error}")
    if not read:
        raise errors[0]
    best = max(read, key=lambda collection: len(collection.labelled()))
    for other in read:
        if other is not best:
            notes.append(
                f"{other.formats[0]} labels {len(other.labelled())} images, {best.formats[0]} {len(best.labelled())}: "
                f"{best.formats[0]} is used; --format {other.formats[0]} takes the other."
            )
    return best, notes


def start(collection: Collection, machine: Machine, options: Options) -> str:
    """Writes splits, config and contact sheet into `options.output`.

    Returns:
        What to print: what was found, what was written, and the command that trains.

    Raises:
        UserError: too few labels, or files with other content are there already.
    """
    parts = divide(collection, percent=options.percent, seed=options.seed)
    name = name_of(options.folder)
    contents = _split_files(collection, parts, options)
    text = render(
        _title(collection, parts, options), _choices(collection, parts, machine, name, options)
    )
    config = os.path.join(options.output, "config.yaml")
    if os.path.exists(config) and not options.force and Path(config).read_text() != text:
        raise UserError(
            f"{config} exists with other content: add --force to replace it, or name another --output."
        )
    write_files(contents, force=options.force)
    write_atomically(config, lambda file: file.write(text.encode()))
    sheet = os.path.join(options.output, "contact_sheet.jpg")
    write_sheet(collection, examine(collection), sheet)
    return _summary(collection, parts, machine, options, config, sheet)


def _split_files(
    collection: Collection, parts: Parts, options: Options
) -> Dict[Path, Dict[str, Any]]:
    contents = {}
    for part, photos in _named_parts(parts):
        info = {"part": part, "folder": os.path.basename(os.path.abspath(options.folder))}
        content = {"info": {"ssod_split": info}, **to_coco(collection, photos)}
        contents[Path(options.output) / f"{part}.json"] = sealed(content)
    return contents


def _named_parts(parts: Parts) -> List[Tuple[str, List[ImageLabels]]]:
    named = [("train", parts.train), ("val", parts.val), ("test", parts.test)]
    return [(n, p) for n, p in [*named, ("unlabeled", parts.unlabelled)] if p]


def _choices(
    collection: Collection, parts: Parts, machine: Machine, name: str, options: Options
) -> List[Choice]:
    def declared(part: str) -> Choice:
        file = os.path.join(options.output, f"{part}.json")
        node = {"FORMAT": "coco", "ANNOTATIONS": file, "IMAGES": collection.root}
        return Choice(f"SSOD.DATASETS.{name}_{part}", node)

    drawn = (
        f"{len(parts.val)} of {len(parts.val) + len(parts.train)} labelled images, drawn at random"
    )
    val = f"{drawn if parts.drawn else 'The images that your data calls so'}; they choose the best teacher."
    data = [
        Choice("DATASETS.TRAIN", [f"{name}_train"]),
        *([Choice("DATASETS.UNLABELED", [f"{name}_unlabeled"])] if parts.unlabelled else []),
        Choice("DATASETS.VAL", [f"{name}_val"], val),
        Choice(
            "DATASETS.TEST",
            [f"{name}_test" if parts.test else f"{name}_val"],
            "" if parts.test else _NO_TEST,
        ),
    ]
    sets = [declared(part) for part, _ in _named_parts(parts)]
    output = Choice("OUTPUT_DIR", os.path.join("output", name))
    chosen = choose(_data_of(collection, parts), machine, options.weights)
    return [*data, *chosen, *sets, output, Choice("VERSION", 2)]


def _data_of(collection: Collection, parts: Parts) -> Data:
    seen = examine(collection)
    boxes = [b.corners for p in collection.labelled() for b in p.boxes or () if not b.iscrowd]
    corners = np.array(boxes).reshape(-1, 4)
    return Data(
        classes=len(collection.classes),
        labelled=sum(bool(photo.boxes) for photo in parts.train),
        unlabelled=len(parts.unlabelled),
        relative_sizes=seen.relative_sizes,
        aspects=(corners[:, 3] - corners[:, 1]) / (corners[:, 2] - corners[:, 0]),
        image_sizes=seen.image_sizes,
    )


def _title(collection: Collection, parts: Parts, options: Options) -> List[str]:
    return [
        f"Written by ssod start {options.folder}. It is yours to edit; docs/own_data.md explains it.",
        f"{len(parts.train)} labelled images to train on, {len(parts.val)} to validate, {len(parts.unlabelled)} without "
        f"labels; classes: {', '.join(collection.classes)}.",
    ]


def _summary(
    collection: Collection,
    parts: Parts,
    machine: Machine,
    options: Options,
    config: str,
    sheet: str,
) -> str:
    boxes = Counter(b.label for p in collection.labelled() for b in p.boxes or ())
    counts = ", ".join(f"{name} {boxes[name]}" for name in collection.classes[:30])
    more = ", ..." if len(collection.classes) > 30 else ""
    how = (
        f"drawn from the labelled ones with seed {options.seed}"
        if parts.drawn
        else "as named in the data"
    )
    lines = [
        f"{options.folder}: {len(collection.photos)} images, {len(collection.labelled())} of them labelled "
        f"({', '.join(collection.formats)})",
        f"boxes: {counts}{more}",
        f"{len(parts.train)} images train, {len(parts.val)} validate ({how}), "
        + (f"{len(parts.test)} test, " if parts.test else "")
        + f"{len(parts.unlabelled)} are unlabelled",
        f"written for {machine}: {config}, with a comment for each choice",
    ]
    lines += [f"note: {message}" for message in collection.messages]
    few = [f"{name} ({boxes[name]})" for name in collection.classes if boxes[name] < _FEW]
    if few:
        lines.append(f"note: few boxes of {first_names(few)}: label more images that show them")
    shown = {b.label for p in parts.val for b in p.boxes or ()}
    unseen = [name for name in collection.classes if name not in shown]
    if unseen:
        names = first_names(unseen)
        lines.append(f"note: no image that validates shows {names}: its AP will be missing")
    lines += [f"note: {message}" for message in _other_images(options.folder)]
    unreadable = [photo.path for photo in collection.photos if photo.size is None]
    if unreadable:
        lines.append(
            f"note: {len(unreadable)} images cannot be read, such as {unreadable[0]}; they are left out"
        )
    lines += [
        "",
        f"Look at the labels in {sheet}. Then train:",
        "",
        f"    {command(config, machine)}",
    ]
    return "\n".join(lines)


def _other_images(folder: str) -> List[str]:
    found = Counter(Path(path).suffix.lower() for path in files_below(folder, *_OTHER_SUFFIXES))
    return [
        f"{count} {suffix} files are left out: convert them to .jpg or .png to use them"
        for suffix, count in sorted(found.items())
    ]


def command(config: str, machine: Machine) -> str:
    """The command line that trains, for the working directory: by `ssod` where that was called."""
    called = os.path.basename(sys.argv[0]) == "ssod"
    as_module = sys.argv[0].endswith(os.path.join("ssod", "__main__.py"))
    script = next(filter(os.path.isfile, ("train_net.py", _checkout_script())), "")
    if called:
        program = "ssod train" if shutil.which("ssod") else f"{_short(sys.argv[0])} train"
    else:
        module = as_module or not script
        program = f"{_short(sys.executable)} {'-m ssod train' if module else script}"
    gpus = f" --num-gpus {machine.gpus}" if machine.gpus > 1 else ""
    return f"{program} --config-file {_quoted(config)}{gpus}"


def _short(path: str) -> str:
    """Relative to the working directory where the path lies in it."""
    return os.path.relpath(path) if _is_below(path) else path


def _is_below(path: str) -> bool:
    return os.path.abspath(path).startswith(os.getcwd() + os.sep)


def _checkout_script() -> str:
    return str(Path(ssod.__file__).resolve().parents[2] / "train_net.py")


def _quoted(path: str) -> str:
    return f"'{path}'" if re.search(r"[^\w./-]", path) else path
