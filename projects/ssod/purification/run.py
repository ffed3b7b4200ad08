"""The steps of `ssod.tools.purify`, as every process runs them."""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import asdict
from functools import partial
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ssod.data.catalog import load_labeled
from ssod.data.classes import check_classes
from ssod.data.json_file import read_json
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.purification.classifier import build_classifier
from ssod.purification.figures import draw_histogram, draw_sheet, text_histogram
from ssod.purification.files import FileList, has_list, write_list
from ssod.purification.images import ImageReader
from ssod.purification.scoring import read_scores, score_images
from ssod.purification.selection import (
    SUMMARY,
    measure,
    random_choice,
    read_positives,
    top_scores,
    write_kept,
    write_scores,
)
from ssod.purification.training import TrainingOptions, train_classifier
from ssod.utils.atomic import write_atomically
from ssod.utils.share import parse_share

SETTINGS = "settings.json"


def purify(args: argparse.Namespace) -> None:
    """Lists, trains, scores and selects. Steps whose results are in `args.output` are skipped."""
    setup_logger(name="ssod", distributed_rank=comm.get_rank())
    cfg = load_config(args.config_file, args.opts)
    options = None if args.random else _options(args, cfg)
    _check(args)
    if comm.is_main_process():
        try:
            os.makedirs(args.output, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output {args.output} cannot be made ({error.strerror}): choose another."
            ) from None
        _claim(args, cfg, options)
        if not has_list(args.output):
            print(f"{write_list(args.wild, args.output)} images below {args.wild}")
    comm.synchronize()
    paths = FileList(args.output)
    if args.keep > len(paths):
        raise UserError(
            f"--keep {args.keep}, but {args.wild} holds {len(paths)} images: keep fewer."
        )
    # The truth is read before the training, so that a wrong file does not waste the training.
    positive = read_positives(args.truth, paths) if args.truth else None
    history: Dict[str, Any] = {"history": [], "skipped": {}}
    if options is not None:
        history = _train_and_score(args, cfg, options, paths)
    if comm.is_main_process() and parse_share(args.share).whole:
        _select(args, check_classes(cfg), paths, history, positive, scored=options is not None)
    comm.synchronize()


def _check(args: argparse.Namespace) -> None:
    for name in ("keep", "epochs", "batch_size", "size"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(args, name)}: it must be at least 1.")
    shared = 2 * comm.get_world_size()
    if args.batch_size % shared:
        raise UserError(
            f"--batch-size {args.batch_size} cannot be halved and shared by {comm.get_world_size()} processes: "
            f"make it a multiple of {shared}."
        )


def _options(args: argparse.Namespace, cfg: CfgNode) -> TrainingOptions:
    if not 0.0 < args.prior < 1.0:
        raise UserError(
            f"--prior is {args.prior}: give the positives' share of the wild images, between 0 and 1."
        )
    return TrainingOptions(
        prior=args.prior,
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        ascent=tuple(args.gradient_ascent) if args.gradient_ascent else None,
        seed=args.seed,
        workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _claim(args: argparse.Namespace, cfg: CfgNode, options: Optional[TrainingOptions]) -> None:
    """Records the settings of the output folder, and refuses to mix it with another run's files."""
    wanted: Dict[str, Any] = {"wild": os.path.abspath(args.wild), "random": args.random}
    if options is not None:
        wanted.update(asdict(options), size=args.size)
        wanted.update(weights=cfg.MODEL.WEIGHTS, train=list(cfg.DATASETS.TRAIN))
        del wanted["workers"]  # any number of workers gives the same images
    wanted = json.loads(json.dumps(wanted))
    path = os.path.join(args.output, SETTINGS)
    if os.path.exists(path):
        found = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path} holds no settings: name another --output or delete it.")
        for key in sorted(set(found) | set(wanted)):
            if found.get(key) != wanted.get(key):
                raise UserError(
                    f"{args.output} was made with {key} {found.get(key)}, now it is {wanted.get(key)}: "
                    "name another --output or delete it."
                )
    text = json.dumps(wanted, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def _train_and_score(
    args: argparse.Namespace, cfg: CfgNode, options: TrainingOptions, paths: FileList
) -> Dict[str, Any]:
    labeled: List[str] = [os.path.abspath(record["file_name"]) for record in load_labeled(cfg)]
    reader = partial(
        ImageReader,
        size=args.size,
        image_format=cfg.INPUT.FORMAT,
        flip=cfg.INPUT.RANDOM_FLIP == "horizontal",
    )
    torch.manual_seed(args.seed)
    classifier = build_classifier(cfg)
    step = classifier.body.size_divisibility
    if step > 1 and args.size % step:
        raise UserError(
            f"--size {args.size} does not suit this backbone: use a multiple of {step}."
        )
    history = train_classifier(
        classifier,
        reader(labeled, "", replace=True),
        reader(paths, args.wild, replace=True),
        options,
        args.output,
    )
    wild = reader(paths, args.wild, replace=False)
    share = parse_share(args.share)
    score_images(classifier, wild, args.output, args.batch_size, options.workers, share)
    return history


def _select(
    args: argparse.Namespace,
    class_names: List[str],
    paths: FileList,
    history: Dict[str, Any],
    positive: Optional[np.ndarray],
    scored: bool,
) -> None:
    skipped: Dict[str, str] = dict(history["skipped"])
    values: Optional[np.ndarray] = None
    if scored:
        scores = read_scores(args.output, len(paths))
        values, sizes = scores.values, scores.sizes
        skipped.update(scores.skipped)
        kept = top_scores(values, args.keep)
    else:
        kept, sizes, found = random_choice(paths, args.wild, args.keep, args.seed)
        skipped.update(found)
    number = int(kept.sum())
    if number == 0:
        raise UserError(f"{args.wild}: no image can be read: check the files.")
    written = [write_kept(args.output, paths, kept, sizes, class_names)]
    summary: Dict[str, Any] = {"images": len(paths), "kept": number, "skipped": skipped}
    print(f"kept {number} of {len(paths)} images, {len(skipped)} files could not be read")
    if values is not None:
        threshold = float(values[kept].min())
        written.append(write_scores(args.output, paths, kept, values, positive))
        written.append(draw_histogram(args.output, values, threshold, positive))
        share = float((values[np.isfinite(values)] > 0).mean())
        summary.update(prior=args.prior, positive_share=share, threshold=threshold)
        summary["risk"] = history["history"]
        print(text_histogram(values, threshold))
        print(
            f"class prior: {args.prior:.3f} given; the classifier calls {share:.3f} of the images positive"
        )
    if positive is not None:
        quality = measure(kept, positive, values)
        summary.update(asdict(quality))
        auc = "" if math.isnan(quality.auc) else f", AUC {quality.auc:.3f}"
        print(
            f"against the truth: precision {quality.precision:.3f}, recall {quality.recall:.3f}{auc}; "
            f"true class prior {quality.true_prior:.3f}"
        )
    written.append(draw_sheet(args.output, paths, args.wild, kept, values))
    text = json.dumps(
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in summary.items()},
        indent=1,
    )
    written.append(os.path.join(args.output, SUMMARY))
    write_atomically(written[-1], lambda file: file.write(text.encode()))
    for file_name, reason in list(skipped.items())[:10]:
        print(f"skipped {file_name}: {reason}")
    print("Wrote " + ", ".join(written))
    print(
        "To train on them, declare in SSOD.DATASETS and name in DATASETS.UNLABELED:\n"
        f'    NAME: {{FORMAT: "coco", ANNOTATIONS: "{written[0]}", IMAGES: "{args.wild}"}}'
    )
