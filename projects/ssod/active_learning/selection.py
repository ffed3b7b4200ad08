"""`ssod.tools.next`: ranks unlabelled images by what a label would teach, and writes the list.

Shapes: n images that can be read, K classes.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor
from tqdm import tqdm

from ssod.active_learning.candidates import Records, image_sets, unlabelled_images
from ssod.active_learning.detection import (
    Detections,
    box_counts,
    detect,
    feature_matrix,
    thresholds,
)
from ssod.active_learning.ranking import PARTS, QUALITY, Pool, Ranking, outstanding, rank, reason
from ssod.active_learning.scores import (
    class_uncertainty,
    class_weights,
    disagreement,
    highest_of_class,
    rarity,
)
from ssod.active_learning.sheet import Picture, write_sheet
from ssod.active_learning.table import by_class, number, write_table
from ssod.data.catalog import load_labeled
from ssod.data.classes import check_classes
from ssod.errors import UserError

logger = logging.getLogger(__name__)
LIST, SCORES, SHEET = "next.csv", "scores.csv", "next.jpg"
_COLUMNS = ("rank", "dataset", "file_name")
_SCORE_COLUMNS = ("score", *QUALITY, "novelty", "distance", "uncertainty_by_class", "why")
_NAMED = 3  # classes in a reason


@dataclass
class Scored:
    """What the detections say of n images; `indices` are those of their records.

    Attributes:
        parts: name -> (n,). uncertainty, presence: (n, K): the uncertainty of each class, and its
            highest score. problems: index -> why the image cannot be read.
    """

    indices: List[int] = field(default_factory=list)
    parts: Dict[str, List[float]] = field(default_factory=dict)
    uncertainty: List[np.ndarray] = field(default_factory=list)
    presence: List[np.ndarray] = field(default_factory=list)
    problems: Dict[int, str] = field(default_factory=dict)


def score_images(detections: Detections, weights: Tensor) -> Scored:
    """The scores of every image; `weights` (K,) are those of `class_weights`."""
    found, count = Scored(), len(weights)
    found.parts = {name: [] for name in QUALITY}
    rows = tqdm(detections.rows(), total=detections.teacher.count, desc="scoring", delay=5)
    for index, (row, other) in enumerate(rows):
        if row.found is None:
            found.problems[index] = row.problem
            continue
        scores, classes = row.found.scores, row.found.pred_classes
        uncertain = class_uncertainty(scores, classes, count)
        present = highest_of_class(scores, classes, count)
        found.indices.append(index)
        found.uncertainty.append(uncertain.numpy().astype(np.float32))
        found.presence.append(present.numpy().astype(np.float32))
        found.parts["uncertainty"].append(float(uncertain.sum()))
        found.parts["rarity"].append(float(rarity(present, weights)))
        if other is not None and other.found is not None:
            found.parts["disagreement"].append(disagreement(row.found, other.found))
    if not found.parts["disagreement"]:
        del found.parts["disagreement"]
    return found


def choose_next(
    cfg: CfgNode,
    weights: str,
    output: str,
    *,
    count: int,
    datasets: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
) -> None:
    """Writes the list, the scores of all images and a contact sheet into `output`; on all ranks.

    Args:
        weights: as `committee` takes them. datasets: instead of `DATASETS.UNLABELED`.
        parts: of `PARTS`, those that count.

    Raises:
        UserError: there is no image to label, or none of them can be read.
    """
    cfg = image_sets(cfg, datasets)
    records, left_out = unlabelled_images(cfg)
    labelled, names = load_labeled(cfg), check_classes(cfg)
    cache = os.path.join(output, "predictions")
    diverse = "diversity" in parts
    asks_both = "disagreement" in parts
    # Features are kept in any case, so that another choice of parts needs no detector.
    found = detect(cfg, weights, records, cache, features=True, student=asks_both)
    known = detect(cfg, weights, labelled, cache, features=True).teacher if diverse else None
    if not comm.is_main_process():
        comm.synchronize()
        return
    counts = box_counts(labelled, len(names))
    class_weight = class_weights(counts)
    scored = score_images(found, class_weight)
    if not scored.indices:
        raise UserError(
            f"None of the {len(records)} images can be read, such as {records[0]['file_name']} "
            f"({scored.problems[0]}): correct IMAGES."
        )
    pool = Pool(
        {
            name: np.array(v)
            for name, v in scored.parts.items()
            if name in parts and name != "rarity"
        },
        np.stack(scored.presence) if "rarity" in parts else None,
        counts.double().numpy(),
        feature_matrix(found.teacher) if diverse else None,
        feature_matrix(known) if known is not None else None,
    )
    if not pool.parts and pool.presence is None and pool.features is None:
        raise UserError(
            "--parts disagreement needs a student: name a full checkpoint (model_*.pth)."
        )
    ranking = rank(pool, count)
    rows = _rows(records, scored, ranking, class_weight, names)
    columns = [c for c in (*_COLUMNS, *_SCORE_COLUMNS) if any(c in row for row in rows)]
    listed = [rows[index] for index in ranking.order]
    write_table(os.path.join(output, LIST), listed, columns)
    everything = rows + _unreadable(records, scored)
    write_table(os.path.join(output, SCORES), everything, [*columns, "problem"])
    limits = thresholds(found.teacher, counts, len(labelled))
    chosen = [scored.indices[index] for index in ranking.order]
    pictures = [
        Picture(records[i]["file_name"], _above(prediction.found, limits), row["why"])
        for i, prediction, row in zip(chosen, found.some(chosen), listed)
    ]
    drawn = write_sheet(os.path.join(output, SHEET), pictures, names)
    _report(cfg, output, listed, len(records), left_out, scored, drawn)
    comm.synchronize()


def _above(found: Any, limits: Tensor) -> Any:
    return found[found.scores >= limits[found.pred_classes]]


def _rows(
    records: Records, scored: Scored, ranking: Ranking, weights: Tensor, names: Sequence[str]
) -> List[Dict[str, Any]]:
    """A row of the table for each of the n images."""
    places = {index: place for place, index in enumerate(ranking.order)}
    high = outstanding(ranking)
    rows = []
    for n, index in enumerate(scored.indices):
        record = records[index]
        row: Dict[str, Any] = {"dataset": record["dataset_name"], "file_name": record["file_name"]}
        row["score"] = number(ranking.quality[n])
        row.update({name: number(values[n]) for name, values in scored.parts.items()})
        if ranking.novelty is not None:
            row["novelty"] = number(ranking.novelty[n])
        row["uncertainty_by_class"] = by_class(scored.uncertainty[n].tolist(), names)
        place = places.get(n)
        if place is not None:
            row["rank"] = place + 1
            if ranking.gaps:
                row["distance"] = number(ranking.gaps[place])
            rare = scored.presence[n] * weights.numpy()
            row["why"] = reason(
                [name for name, values in high.items() if values[n]],
                _highest(scored.uncertainty[n], names),
                _highest(rare, names),
            )
        rows.append(row)
    return rows


def _highest(values: np.ndarray, names: Sequence[str]) -> List[str]:
    order = np.argsort(-values, kind="stable")[:_NAMED]
    return [names[k] for k in order if values[k] > 0]


def _unreadable(records: Records, scored: Scored) -> List[Dict[str, Any]]:
    return [
        {
            "dataset": records[index]["dataset_name"],
            "file_name": records[index]["file_name"],
            "problem": problem,
        }
        for index, problem in scored.problems.items()
    ]


def choose_at_random(
    cfg: CfgNode, output: str, *, count: int, datasets: Sequence[str] = ()
) -> None:
    """Writes a random list, to compare; `SEED` draws it."""
    cfg = image_sets(cfg, datasets)
    records, left_out = unlabelled_images(cfg)
    generator = torch.Generator().manual_seed(max(0, cfg.SEED))
    order = torch.randperm(len(records), generator=generator)[:count].tolist()
    rows = [
        {
            "rank": place + 1,
            "dataset": records[index]["dataset_name"],
            "file_name": records[index]["file_name"],
        }
        for place, index in enumerate(order)
    ]
    write_table(os.path.join(output, LIST), rows, _COLUMNS)
    _report(cfg, output, rows, len(records), left_out, None, 0)


def _report(
    cfg: CfgNode,
    output: str,
    listed: Sequence[Dict[str, Any]],
    total: int,
    left_out: Dict[str, int],
    scored: Optional[Scored],
    drawn: int,
) -> None:
    print(
        f"{os.path.join(output, LIST)}: {len(listed)} of {total} images of {', '.join(cfg.DATASETS.UNLABELED)}"
    )
    for key, number_left_out in left_out.items():
        print(f"note: {number_left_out} images are in {key} and left out")
    if scored is None:
        return
    if "disagreement" not in scored.parts:
        print(
            "note: without disagreement: the weights hold no student beside the teacher, or --parts leaves it out"
        )
    if scored.problems:
        first = next(iter(scored.problems.values()))
        print(
            f"note: {len(scored.problems)} images cannot be read ({first}); {SCORES} lists them under problem"
        )
    print(f"{os.path.join(output, SCORES)}: the scores of all {len(scored.indices)} images")
    if drawn:
        print(f"{os.path.join(output, SHEET)}: the first {drawn} of them, with the teacher's boxes")
