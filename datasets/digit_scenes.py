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

Shapes: image (H, W, 3) uint8 BGR, or float64 in [0, 1] while it is being drawn; box [x0, y0, x1,
y1], integers; mask (H, W) bool.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from numpy.random import RandomState
from pycocotools import mask as mask_util

SIDE = 128
NUM_CLASSES = 10
INK = 0.35  # a pixel with more opacity belongs to the digit
HASH_FILE = Path(__file__).with_suffix(".sha256")
HASH_PREFIX = 8  # scenes in the hashes that a quick test can afford
WILD_SEED = 3
DISTRACTORS = ("letters", "shapes", "clutter")


@dataclass(frozen=True)
class Split:
    """One set of scenes: how many, from which seed, by which writers, and whether all digits are
    equally frequent.
    """

    images: int
    seed: int
    writers: str
    balanced: bool


@dataclass(frozen=True)
class Options:
    """What may differ from the published dataset."""

    labeled: int = 100
    unlabeled: int = 1900
    imbalance: float = 0.7
    sizes: Tuple[int, ...] = (14, 18, 24, 32, 44, 60)
    seed: int = 0

    def splits(self) -> Dict[str, Split]:
        return {
            "labeled": Split(self.labeled, self.seed + 1, "train", False),
            "unlabeled": Split(self.unlabeled, self.seed + 2, "train", False),
            "val": Split(200, self.seed + 500, "test", True),
            "test": Split(200, self.seed + 999, "test", True),
        }

    def class_frequencies(self) -> np.ndarray:
        """(10,) float64, sums to 1."""
        falling = self.imbalance ** np.arange(NUM_CLASSES)
        return falling / falling.sum()


@dataclass
class Scene:
    image: np.ndarray
    boxes: List[List[int]]
    classes: List[int]
    masks: List[np.ndarray]


@functools.lru_cache(maxsize=None)
def handwriting() -> Dict[str, List[np.ndarray]]:
    """For "train" and "test" writers: ten arrays (n, 8, 8) in [0, 1], the samples of each digit in
    a fixed order.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    shuffled = RandomState(0).permutation(len(digits.target))
    parts = {"train": shuffled[:1200], "test": shuffled[1200:]}
    return {
        name: [digits.images[part[digits.target[part] == k]] / 16.0 for k in range(NUM_CLASSES)]
        for name, part in parts.items()
    }


def background(rng: RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """A textured canvas (H, W, 3) and its base colour (3,)."""
    base = rng.rand(3) * 0.6 + 0.1
    rows, columns = rng.randint(3, 12), rng.randint(3, 12)
    texture = cv2.resize(rng.rand(rows, columns, 3), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(base * 0.6 + 0.4 * texture, 0, 1), base


def add_lines(rng: RandomState, canvas: np.ndarray) -> None:
    for _ in range(rng.randint(2, 8)):
        ends = rng.randint(0, SIDE, 2), rng.randint(0, SIDE, 2)
        colour, thickness = rng.rand(3), rng.randint(1, 4)
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), colour.tolist(), int(thickness))


def ink_mask(rng: RandomState, glyph: np.ndarray, size: int) -> np.ndarray:
    """The glyph scaled to (size, size) and slightly turned, as opacity in [0, 1]."""
    mask = cv2.resize(glyph, (size, size), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-15, 15), 1)
    return cv2.warpAffine(np.clip(mask, 0, 1), turn, (size, size))


def contrasting_colour(rng: RandomState, base: np.ndarray) -> np.ndarray:
    colour = rng.rand(3)
    if abs(colour.mean() - base.mean()) >= 0.25:
        return colour
    if abs((1 - colour).mean() - base.mean()) > 0.2:
        return 1 - colour
    return np.full(3, 1.0 if base.mean() < 0.45 else 0.0)


def blend(canvas: np.ndarray, mask: np.ndarray, x: int, y: int, colour: np.ndarray) -> None:
    height, width = mask.shape
    window = canvas[y : y + height, x : x + width]
    opacity = mask[..., None]
    window[...] = window * (1 - opacity) + colour * opacity


def crowded(box: Sequence[int], others: Iterable[Sequence[int]]) -> bool:
    """Whether the box shares more than a tenth of the smaller area with any other."""

    def area(b: Sequence[int]) -> int:
        return (b[2] - b[0]) * (b[3] - b[1])

    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0 and width * height > 0.1 * min(area(box), area(other)):
            return True
    return False


def finish(rng: RandomState, canvas: np.ndarray) -> np.ndarray:
    """Sensor noise, then uint8."""
    return (np.clip(canvas + rng.randn(SIDE, SIDE, 3) * 0.03, 0, 1) * 255).astype(np.uint8)


def draw_scene(
    rng: RandomState,
    digits: List[np.ndarray],
    frequencies: Optional[np.ndarray],
    sizes: Sequence[int],
) -> Scene:
    """Draws one scene of 2 to 6 digits.

    The order of the random draws is part of the dataset: another order gives other scenes.

    Args:
        digits: the glyphs to choose from, of one group of writers (see `handwriting`).
        frequencies: (10,) of the classes; None for equal ones.
        sizes: sides of a glyph in pixels, chosen uniformly.
    """
    canvas, base = background(rng)
    wanted = rng.randint(2, 7)
    add_lines(rng, canvas)
    boxes: List[List[int]] = []
    classes: List[int] = []
    masks: List[np.ndarray] = []
    for _ in range(wanted * 3):  # attempts
        if len(boxes) == wanted:
            break
        digit = int(rng.choice(NUM_CLASSES, p=frequencies))
        glyph = digits[digit][rng.choice(len(digits[digit]))]
        size = int(rng.choice(sizes))
        mask = ink_mask(rng, glyph, size)
        rows, columns = np.nonzero(mask > INK)
        if len(rows) < 8:
            continue
        x, y = (int(v) for v in (rng.randint(0, SIDE - size + 1), rng.randint(0, SIDE - size + 1)))
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
        box = [int(v) for v in (x + low[0], y + low[1], x + high[0], y + high[1])]
        if crowded(box, boxes):
            continue
        blend(canvas, mask, x, y, contrasting_colour(rng, base))
        boxes.append(box)
        classes.append(digit)
        masks = [*(hidden_by(other, mask, x, y) for other in masks), placed(mask, x, y)]
    return Scene(finish(rng, canvas), boxes, classes, masks)


def placed(opacity: np.ndarray, x: int, y: int) -> np.ndarray:
    """A digit's mask in the scene."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + opacity.shape[0], x : x + opacity.shape[1]] = opacity > INK
    return mask


def hidden_by(mask: np.ndarray, opacity: np.ndarray, x: int, y: int) -> np.ndarray:
    """A mask without the pixels that a later digit covers."""
    return mask & ~placed(opacity, x, y)


def draw_split(split: Split, options: Options) -> Iterator[Scene]:
    """The scenes of a split, in order; one generator runs through all, so scene n needs those
    before it.
    """
    rng = RandomState(split.seed)
    frequencies = None if split.balanced else options.class_frequencies()
    for _ in range(split.images):
        yield draw_scene(rng, handwriting()[split.writers], frequencies, options.sizes)


def draw_distractor(rng: RandomState, kind: str, sizes: Sequence[int]) -> Scene:
    """A scene without digits; `kind` is one of DISTRACTORS."""
    canvas, base = background(rng)
    add_lines(rng, canvas)
    for _ in range(0 if kind == "clutter" else rng.randint(2, 7)):
        size = int(rng.choice(sizes))
        mask = np.zeros((size, size))
        corners = rng.randint(0, size, (rng.randint(3, 6), 2)).astype(np.int32)
        if kind == "letters":
            cv2.polylines(mask, [corners], bool(rng.randint(2)), 1.0, max(1, size // 8))
            mask = cv2.GaussianBlur(mask, (0, 0), size / 24)
        elif rng.randint(2):
            cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1.0)
        else:
            axes = (rng.randint(size // 4, size // 2), rng.randint(size // 4, size // 2))
            cv2.ellipse(mask, (size // 2, size // 2), axes, 0, 0, 360, 1.0, -1)
        x, y = rng.randint(0, SIDE - size + 1, 2)
        blend(canvas, mask, int(x), int(y), contrasting_colour(rng, base))
    return Scene(finish(rng, canvas), [], [], [])


def draw_wild(count: int, options: Options) -> Iterator[Tuple[str, Scene]]:
    """(kind, scene) pairs in random order: `count // 2` of kind "scene", the others distractors of
    equal shares.
    """
    rng = RandomState(options.seed + WILD_SEED)
    others = count - count // 2
    kinds = ["scene"] * (count // 2) + [DISTRACTORS[i % len(DISTRACTORS)] for i in range(others)]
    for i in rng.permutation(count):
        if kinds[i] == "scene":
            digits, frequencies = handwriting()["train"], options.class_frequencies()
            yield "scene", draw_scene(rng, digits, frequencies, options.sizes)
        else:
            yield kinds[i], draw_distractor(rng, kinds[i], options.sizes)


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
