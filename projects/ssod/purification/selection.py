"""Chooses images and writes the choice (Algorithm 1, step 2).

Shapes: n wild images, by index; scores are NaN for files that could not be read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from typing import IO, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ssod.data.coco_content import read_coco
from ssod.data.records import read_image_size
from ssod.errors import UserError
from ssod.utils.atomic import write_atomically

KEPT, SCORES, SUMMARY = "kept.json", "scores.csv", "summary.json"


def top_scores(values: np.ndarray, keep: int) -> np.ndarray:
    """bool (n,): the `keep` highest scores. The first of equal scores is chosen. Unreadable images
    are never chosen.
    """
    order = np.argsort(-values, kind="stable")  # NaN comes last
    chosen = order[:keep]
    mask = np.zeros(len(values), dtype=bool)
    mask[chosen[~np.isnan(values[chosen])]] = True
    return mask


def random_choice(
    paths: Sequence[str], folder: str, keep: int, seed: int
) -> Tuple[np.ndarray, np.ndarray, Dict[str, str]]:
    """Chooses `keep` images with readable headers. Every set of that size is equally likely.

    Returns:
        bool (n,); int32 (n, 2) sizes of the chosen images; file -> reason for files that were drawn
        and cannot be read.
    """
    mask = np.zeros(len(paths), dtype=bool)
    sizes = np.zeros((len(paths), 2), dtype=np.int32)
    skipped: Dict[str, str] = {}
    missing = keep
    for index in np.random.default_rng(seed).permutation(len(paths)):
        if missing == 0:
            break
        try:
            sizes[index] = read_image_size(os.path.join(folder, paths[index]))
        except OSError as error:
            skipped[paths[index]] = " ".join(str(error).split())
            continue
        mask[index] = True
        missing -= 1
    return mask, sizes, skipped


def read_positives(path: str, paths: Sequence[str]) -> np.ndarray:
    """int8 (n,): 1 for wild images that are truly positive, 0 for others, -1 for images that the
    file does not name.

    Args:
        path: a COCO file, in which images with annotations are positive, or a CSV with the columns
            file_name and positive (0 or 1). File names are relative to the wild folder.
    """
    known: Dict[str, int] = {}
    if path.lower().endswith(".csv"):
        try:
            with open(path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    known[row["file_name"]] = int(row["positive"])
        except (KeyError, ValueError, TypeError):
            raise UserError(
                f"{path} must be a CSV with the columns file_name and positive (0 or 1): correct --truth."
            ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): correct --truth.") from None
    else:
        content = read_coco(path, ("images", "annotations"))
        with_boxes = {annotation.get("image_id") for annotation in content["annotations"]}
        known = {i.get("file_name"): int(i.get("id") in with_boxes) for i in content["images"]}
    found = np.fromiter((known.get(name, -1) for name in paths), dtype=np.int8, count=len(paths))
    if (found < 0).all():
        raise UserError(
            f"{path} names none of the wild images, such as {paths[0]}: file names must be relative to --wild."
        )
    return found


@dataclass(frozen=True)
class Quality:
    """The quality of a choice, over the images whose truth is known.

    Attributes:
        precision, recall: of the chosen images. true_prior: the positives' share of the pool. auc:
            the probability that a positive has a higher score than a negative. NaN without scores.
    """

    precision: float
    recall: float
    true_prior: float
    auc: float


def measure(kept: np.ndarray, positive: np.ndarray, values: Optional[np.ndarray]) -> Quality:
    """Quality of a choice.

    Args:
        kept: bool (n,). positive: the result of `read_positives`. values: float (n,) scores or
            None.
    """
    known = positive >= 0
    truth = positive == 1
    hits = int((kept & truth).sum())
    return Quality(
        precision=_ratio(hits, int((kept & known).sum())),
        recall=_ratio(hits, int(truth.sum())),
        true_prior=_ratio(int(truth.sum()), int(known.sum())),
        auc=math.nan if values is None else _auc(values, truth, known),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _auc(values: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float:
    """The Mann-Whitney statistic. Ties count half."""
    from scipy.stats import rankdata

    known = known & ~np.isnan(values)
    positives = truth[known]
    count = int(positives.sum())
    others = len(positives) - count
    if not count or not others:
        return math.nan
    ranks = rankdata(values[known])
    return float((ranks[positives].sum() - count * (count + 1) / 2) / (count * others))


def write_kept(
    output: str,
    paths: Sequence[str],
    kept: np.ndarray,
    sizes: np.ndarray,
    class_names: Sequence[str],
) -> str:
    """The chosen images as a COCO file without annotations, which `SSOD.DATASETS` declares as an
    unlabelled set.
    """
    images = []
    for index in np.flatnonzero(kept).tolist():
        height, width = (int(v) for v in sizes[index])
        images.append(
            {"id": index + 1, "file_name": paths[index], "height": height, "width": width}
        )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(class_names)]
    content = {"images": images, "annotations": [], "categories": categories}
    path = os.path.join(output, KEPT)
    text = json.dumps(content)
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def write_scores(
    output: str,
    paths: Sequence[str],
    kept: np.ndarray,
    values: np.ndarray,
    positive: Optional[np.ndarray],
) -> str:
    """Writes a CSV with file_name, score (empty if unreadable), kept, and positive if the truth is
    known.
    """
    path = os.path.join(output, SCORES)

    def write(raw: IO[bytes]) -> None:
        text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(["file_name", "score", "kept"] + ([] if positive is None else ["positive"]))
        for index in range(len(paths)):
            value = float(values[index])
            row: List[Any] = [paths[index], "" if math.isnan(value) else f"{value:.6g}"]
            row.append(int(kept[index]))
            if positive is not None:
                row.append("" if positive[index] < 0 else int(positive[index]))
            writer.writerow(row)
        text.flush()
        text.detach()

    write_atomically(path, write)
    return path
