"""Class-rebalancing self-training (CReST; Wei et al., CVPR 2021). Each generation trains from the
start, and its model labels images for the next one.

Shapes: K classes, M pseudo-labels of the whole unlabelled set.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Sequence

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor

from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.data.records import trained_classes
from ssod.engine.setup import load_config, setup
from ssod.errors import UserError
from ssod.methods.crest import ADDED, generation_temperature, kept_shares, most_confident
from ssod.phases.plan import Phase
from ssod.phases.runner import train_phase
from ssod.pseudo_labels.labelling import image_root, write_labels
from ssod.pseudo_labels.predictions import Prediction, PredictionStore, predict
from ssod.resources import find_config
from ssod.sweep.plan import changed_since
from ssod.utils.atomic import write_atomically

logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP-majority", "AP-minority")


@dataclass(frozen=True)
class Generation(Phase):
    """One training. `labels` joins the labelled set in all generations but the first."""

    @property
    def config(self) -> str:
        """The path of this generation's config. `train_net.py` with it and the overrides repeats
        the run.
        """
        return os.path.join(self.folder, "generation.yaml")


def plan_generations(cfg: CfgNode) -> List[Generation]:
    """All generations of a config, in order.

    Raises:
        UserError: a key of SSOD.CREST is wrong, or there is nothing to label.
    """
    node = cfg.SSOD.CREST
    if node.GENERATIONS < 2:
        raise UserError(f"SSOD.CREST.GENERATIONS is {node.GENERATIONS}: use 2 or more.")
    if not node.ALPHA > 0:
        raise UserError(f"SSOD.CREST.ALPHA is {node.ALPHA}: use a value above 0.")
    if not 0.0 <= node.SCORE_THRESHOLD <= 1.0:
        raise UserError(
            f"SSOD.CREST.SCORE_THRESHOLD is {node.SCORE_THRESHOLD}: use a score between 0 and 1."
        )
    if not 0.0 <= node.TEMPERATURE <= 1.0:
        raise UserError(f"SSOD.CREST.TEMPERATURE is {node.TEMPERATURE}: use a number from 0 to 1.")
    if not cfg.SSOD.METHODS or not cfg.DATASETS.UNLABELED:
        raise UserError(
            "SSOD.METHODS or DATASETS.UNLABELED is empty: generations need both, see configs/digit_scenes/ci_ssod/crest.yaml."
        )
    plan = []
    for index in range(node.GENERATIONS):
        folder = os.path.join(cfg.OUTPUT_DIR, f"generation_{index}")
        overrides = ["OUTPUT_DIR", folder]
        if index:
            overrides += ["DATASETS.TRAIN", str((*cfg.DATASETS.TRAIN, ADDED))]
        if "DistributionAlignment" in cfg.SSOD.METHODS:
            value = generation_temperature(index, node.GENERATIONS, node.TEMPERATURE)
            overrides += ["SSOD.DISTRIBUTION_ALIGNMENT.TEMPERATURE", str(value)]
        plan.append(Generation(index, folder, 1.0, overrides))
    return plan


def run_generations(config_file: str, opts: Sequence[str]) -> None:
    """Runs all of CReST. Call it on all ranks. The same call again continues.

    Files: OUTPUT_DIR/generation_<i>/ is an ordinary training run, with the pseudo_labels.json that
    joined its labelled set; OUTPUT_DIR/predictions/ holds the models' predictions; summary.md has
    the results of each generation.
    """
    cfg = load_config(config_file, opts)
    plan = plan_generations(cfg)
    cache = os.path.join(cfg.OUTPUT_DIR, "predictions")
    for generation in plan:
        # Rank 0 decides, because some file systems show new files late to other machines.
        if comm.all_gather(generation.finished)[0]:
            continue
        if generation.index and not comm.all_gather(os.path.exists(generation.labels))[0]:
            before = plan[generation.index - 1]
            _label(cfg, before.weights, generation.labels, cache)
        path = _write_config(config_file, generation, cfg)
        own = load_config(path, [*opts, *generation.overrides])
        difference = comm.all_gather(changed_since(own, generation.folder))[0]
        if difference:
            raise UserError(
                f"{generation.folder} was begun with another config ({difference}): choose another OUTPUT_DIR, or remove it."
            )
        comm.synchronize()  # before any rank writes a config
        args = argparse.Namespace(config_file=path, opts=[*opts, *generation.overrides])
        logger.info(f"Generation {generation.index}: {' '.join(map(repr, generation.overrides))}")
        train_phase(setup(args))
    if comm.is_main_process():
        text = summarise(plan)
        _write(os.path.join(cfg.OUTPUT_DIR, "summary.md"), text)
        logger.info(f"Results, also in {cfg.OUTPUT_DIR}/summary.md:\n{text}")
    comm.synchronize()


def _write_config(config_file: str, generation: Generation, cfg: CfgNode) -> str:
    """Writes the config that declares the labels of the generation before. The first generation
    uses the given config.
    """
    if not generation.index:
        return config_file
    if comm.is_main_process():
        with open(generation.labels) as file:
            root = json.load(file)["info"]["image_root"]
        added = {
            "FORMAT": "coco",
            "ANNOTATIONS": os.path.abspath(generation.labels),
            "IMAGES": root,
        }
        content = {
            "_BASE_": os.path.abspath(find_config(config_file)),
            "SSOD": {"DATASETS": {ADDED: added}},
        }
        _write(generation.config, yaml.safe_dump(content, sort_keys=False))
    comm.synchronize()
    return generation.config


def _label(cfg: CfgNode, weights: str, output: str, cache: str) -> None:
    """Labels the unlabelled set with one model and keeps the most confident share of each class."""
    node = cfg.SSOD.CREST
    records = load_unlabeled(cfg)
    classes = check_classes(cfg)
    store = predict(cfg, weights, records, cache)
    if comm.is_main_process():
        counts = torch.zeros(len(classes))
        for record in load_labeled(cfg):
            for label in trained_classes(record):
                counts[label] += 1
        shares = kept_shares(counts, node.ALPHA)
        masks = chosen_labels(store, shares, node.SCORE_THRESHOLD)
        info: Dict[str, Any] = {
            "description": "Pseudo-labels that join the labelled set (CReST)",
            "image_root": image_root(records),
            "models": [weights],
            "shares": dict(zip(classes, shares.tolist())),
            "fraction": 1.0,
        }
        used = torch.tensor([bool(mask.any()) for mask in masks])
        write_labels(output, records, _kept(store, masks), used, classes, info)
    comm.synchronize()


def chosen_labels(store: PredictionStore, shares: Tensor, threshold: float) -> List[Tensor]:
    """Selects the predictions of each image that join the labelled set.

    Args:
        shares: (K,), see `kept_shares`. threshold: only predictions with `score >= threshold` are
            pseudo-labels.

    Returns:
        A bool tensor for each image, empty if the image cannot be read.
    """
    masks, classes, scores = [], [], []
    for row in store:
        passed = torch.zeros(0, dtype=torch.bool)
        if row.found is not None:
            passed = row.found.scores >= threshold
            classes.append(row.found.pred_classes[passed])
            scores.append(row.found.scores[passed])
        masks.append(passed)
    kept = most_confident(
        torch.cat([torch.zeros(0, dtype=torch.int64), *classes]),
        torch.cat([torch.zeros(0), *scores]),
        shares,
    )
    for mask, own in zip(masks, kept.split([int(mask.sum()) for mask in masks])):
        mask[mask.clone()] = own
    return masks


def _kept(store: PredictionStore, masks: Sequence[Tensor]) -> Iterator[Prediction]:
    for row, mask in zip(store, masks):
        yield row if row.found is None else Prediction(row.found[mask])


def summarise(plan: Sequence[Generation]) -> str:
    """A table in Markdown with the labels that joined, and the results of each generation's model
    on the test set.
    """
    results = []
    for generation in plan:
        with open(os.path.join(generation.folder, "results.json")) as file:
            tests = json.load(file)["teacher_best"]["test"]
        first: Dict[str, float] = next(iter(tests.values())).get("bbox", {}) if tests else {}
        joined = 0
        if generation.index:
            with open(generation.labels) as file:
                joined = len(json.load(file)["annotations"])
        results.append((generation.index, joined, first))
    metrics = [name for name in METRICS if any(name in row for _, _, row in results)]
    lines = [
        "| generation | pseudo-labels that joined | " + " | ".join(metrics) + " |",
        "|---|---:|" + "---:|" * len(metrics),
    ]
    for index, joined, row in results:
        values = [f"{row[name]:.1f}" if name in row else "–" for name in metrics]
        lines.append(f"| {index} | {joined} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _write(path: str, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
