#!/usr/bin/env python3
"""Draws the digit-scenes dataset: python datasets/digit_scenes.py [OUTPUT_DIR] [options]

Handwritten digits (scikit-learn's 1,797 of 8x8) in random colours on textured, cluttered 128x128
scenes: COCO JSON files beside folders of PNGs. The class frequencies of the training scenes fall as
IMBALANCE^k; validation and test scenes are class-balanced and use other writers' digits. With the
default options the boxes are equal on every machine, and the pixels under the versions in
`digit_scenes.sha256`, so that results compare. Each digit has a mask too: the pixels of its ink
that no later digit covers.

    labeled.json      labeled/      100 images with boxes and masks
    unlabeled.json    unlabeled/    1,900 images without; their boxes, for analysis only, are in
                                    `unlabeled_truth.json`
    all.json          (the folder above)  both with all boxes, for the fully supervised end
    val.json, test.json             200 images each

`--wild N` adds wild/, a pool that nobody has sorted: half scenes as above, half distractors
(letter-like strokes, shapes, empty clutter). `wild_truth.json` says which is which.

`digit_drawing.py` draws the scenes; this file writes them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence

import cv2
import numpy as np
from pycocotools import mask as mask_util

# Also where a program loads this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from digit_drawing import (  # noqa: E402, F401  (programs that load this file use all of these)
    NUM_CLASSES,
    SIDE,
    Options,
    Scene,
    Split,
    draw_scene,
    draw_split,
    draw_wild,
    handwriting,
    hidden_by,
    placed,
)

HASH_FILE = Path(__file__).with_suffix(".sha256")
HASH_PREFIX = 8  # scenes in the hashes that a quick test can afford


class CocoWriter:
    """Collects scenes as a COCO dataset; ids count from 1, category k + 1 is digit k."""

    def __init__(self) -> None:
        self.images: List[Dict[str, Any]] = []
        self.annotations: List[Dict[str, Any]] = []

    def add(self, file_name: str, scene: Scene, **more: Any) -> None:
        image_id = len(self.images) + 1
        self.images.append(
            {"id": image_id, "file_name": file_name, "height": SIDE, "width": SIDE, **more}
        )
        for (x0, y0, x1, y1), k, mask in zip(scene.boxes, scene.classes, scene.masks):
            width, height = x1 - x0, y1 - y0
            rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": k + 1,
                    "bbox": [x0, y0, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": {"size": [SIDE, SIDE], "counts": rle["counts"].decode()},
                }
            )

    def write(self, path: Path, *, with_annotations: bool = True) -> None:
        content = {
            "images": self.images,
            "annotations": self.annotations if with_annotations else [],
            "categories": [{"id": k + 1, "name": str(k)} for k in range(NUM_CLASSES)],
        }
        write_atomically(path, json.dumps(content))


class SceneHash:
    """sha256 of the pixels and of the boxes, over a run of scenes and over its first
    HASH_PREFIX.
    """

    def __init__(self) -> None:
        self.count = 0
        self.hashes = {key: hashlib.sha256() for key in ("pixels", "boxes")}
        self.lines: Dict[str, str] = {}

    def add(self, scene: Scene) -> None:
        self.count += 1
        self.hashes["pixels"].update(scene.image.tobytes())
        self.hashes["boxes"].update(json.dumps([scene.boxes, scene.classes]).encode())
        if self.count == HASH_PREFIX:
            self.lines = {f"{k}[:{HASH_PREFIX}]": h.hexdigest() for k, h in self.hashes.items()}

    def result(self) -> Dict[str, str]:
        return {**self.lines, **{key: h.hexdigest() for key, h in self.hashes.items()}}


def committed_hashes() -> Dict[str, str]:
    """ "split.pixels", "split.boxes" and the same of the first scenes ("...[:8]"), each with its
    sha256.
    """
    rows = (line.split() for line in HASH_FILE.read_text().splitlines() if not line.startswith("#"))
    return {name: digest for digest, name in rows}


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def is_complete(marker: Path, wanted: Dict[str, Any]) -> bool:
    """Whether `marker`, which is written last, says that images and masks are there.

    Other options end the program. Earlier versions wrote no masks; then the images are there, and
    only the annotations are written again.
    """
    if not marker.exists():
        return False
    found = json.loads(marker.read_text())
    has_masks = found.pop("masks", False)
    if found != json.loads(json.dumps(wanted)):
        sys.exit(
            f"{marker.parent} was drawn with other options ({found}): delete it or name another folder"
        )
    return has_masks


def note_complete(marker: Path, options: Dict[str, Any]) -> None:
    write_atomically(marker, json.dumps({**options, "masks": True}))


def fresh_folder(path: Path) -> Path:
    """The folder without the numbered pictures that an interrupted run may have left."""
    path.mkdir(parents=True, exist_ok=True)
    for old in path.glob("[0-9][0-9][0-9][0-9][0-9]*.png"):
        old.unlink()
    return path


def save_image(path: Path, scene: Scene) -> None:
    if not cv2.imwrite(str(path), scene.image):
        raise OSError(f"could not write {path}")


def progress(scenes: Iterable[Any], total: int, name: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(
        scenes, total=total, desc=f"{name:>9}", unit=" scenes", disable=not sys.stderr.isatty()
    )


def write_scenes(root: Path, options: Options, *, images: bool) -> Dict[str, str]:
    """Draws and writes the four splits and `all.json`; returns their hashes.

    Args:
        images: False leaves the pictures as they are and writes the annotations alone.
    """
    hashes: Dict[str, str] = {}
    everything = CocoWriter()
    for name, split in options.splits().items():
        folder = fresh_folder(root / name) if images else root / name
        writer, digest = CocoWriter(), SceneHash()
        for i, scene in enumerate(progress(draw_split(split, options), split.images, name)):
            file_name = f"{i:05d}.png"
            if images:
                save_image(folder / file_name, scene)
            digest.add(scene)
            writer.add(file_name, scene)
            if name in ("labeled", "unlabeled"):
                everything.add(f"{name}/{file_name}", scene)
        if name == "unlabeled":
            writer.write(root / "unlabeled_truth.json")
        writer.write(root / f"{name}.json", with_annotations=name != "unlabeled")
        hashes.update({f"{name}.{key}": value for key, value in digest.result().items()})
    everything.write(root / "all.json")
    return hashes


def write_wild(root: Path, count: int, options: Options, *, images: bool) -> None:
    folder = fresh_folder(root / "wild") if images else root / "wild"
    truth = CocoWriter()
    for i, (kind, scene) in enumerate(progress(draw_wild(count, options), count, "wild")):
        if images:
            save_image(folder / f"{i:05d}.png", scene)
        truth.add(f"{i:05d}.png", scene, kind=kind)
    truth.write(root / "wild_truth.json")


def versions() -> str:
    import sklearn

    return f"numpy {np.__version__}, opencv {cv2.__version__}, scikit-learn {sklearn.__version__}"


def report_hashes(root: Path, hashes: Dict[str, str]) -> None:
    """Writes the hashes beside the data (the file to commit when pinned versions change) and
    compares them.
    """
    lines = [f"# sha256 of the default scenes with {versions()} on {platform.machine()}"]
    lines += [f"{digest}  {name}" for name, digest in hashes.items()]
    write_atomically(root / HASH_FILE.name, "\n".join(lines) + "\n")
    expected = committed_hashes()
    wrong = [name for name, digest in hashes.items() if expected.get(name) != digest]
    if any(".boxes" in name for name in wrong):
        print(f"warning: boxes differ from {HASH_FILE} ({', '.join(wrong)})", file=sys.stderr)
    elif wrong:
        print(
            f"boxes equal to {HASH_FILE.name}, pixels not: they hold for the versions named there"
        )
    else:
        print(f"boxes and pixels equal to {HASH_FILE.name}")


def build_parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "digit_scenes"
    parser.add_argument(
        "output", type=Path, nargs="?", default=folder, metavar="OUTPUT_DIR", help=f"({folder})"
    )
    parser.add_argument("--labeled", type=int, default=default.labeled, help="images (100)")
    parser.add_argument("--unlabeled", type=int, default=default.unlabeled, help="images (1900)")
    parser.add_argument(
        "--imbalance",
        type=float,
        default=default.imbalance,
        help="training frequency of each digit relative to the one before it; 1 is balanced (0.7)",
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=default.sizes, help="sides of a digit in pixels"
    )
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="added to every split's seed (0)"
    )
    parser.add_argument("--wild", type=int, default=0, help="images in the wild pool (0: none)")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if not 0 < args.imbalance <= 1:
        parser.error("--imbalance must be above 0 and at most 1")
    if min(args.labeled, args.unlabeled) < 1 or args.wild < 0 or args.seed < 0:
        parser.error("--labeled and --unlabeled must be at least 1, --wild and --seed at least 0")
    if not all(8 <= size <= SIDE for size in args.sizes):
        parser.error(f"--sizes must lie between 8 and {SIDE}")
    options = Options(args.labeled, args.unlabeled, args.imbalance, tuple(args.sizes), args.seed)
    root: Path = args.output
    root.mkdir(parents=True, exist_ok=True)

    marker = root / ".scenes.json"
    if is_complete(marker, vars(options)):
        print(f"{root}: complete")
    else:
        hashes = write_scenes(root, options, images=not marker.exists())
        if options == Options():
            report_hashes(root, hashes)
        note_complete(marker, vars(options))
    if args.wild:
        marker = root / ".wild.json"
        wanted = {**vars(options), "wild": args.wild}
        if not is_complete(marker, wanted):
            write_wild(root, args.wild, options, images=not marker.exists())
            note_complete(marker, wanted)


if __name__ == "__main__":
    main()
