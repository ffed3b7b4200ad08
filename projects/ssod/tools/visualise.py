"""Draws labels, training views, pseudo-labels or detections on any declared dataset, to one sheet
or to single files.

ssod visualise --config-file X.yaml --dataset NAME --what \\
    labels|views|pseudo|detections
    [--weights FILE] [--num 16] [--output sheet.png | DIR] [--score S] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ssod.data.classes import check_classes, dataset_classes
from ssod.data.coco import CocoSet
from ssod.data.declarations import suggestion
from ssod.data.foreign import with_masks
from ssod.data.mapper import TwoViewMapper, UnreadableImage, read_image
from ssod.data.masks import bit_masks, decode_mask, is_rle
from ssod.data.readings import declared_set, register_datasets
from ssod.engine.loading import load_detector, load_teacher, methods_with_data
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.methods import Method
from ssod.report.contact_sheet import (
    Panel,
    beside,
    contact_sheet,
    draw_panel,
    single_size,
)
from ssod.structures import Sample, SampleRef, SSODBatch
from ssod.utils.atomic import write_atomically
from ssod.utils.progress import progress

# (records, class names of the labels) of a dataset
Loaded = Tuple[List[Dict[str, Any]], List[str]]


def load_dataset(cfg: CfgNode, name: str) -> Loaded:
    """A dataset's records with "annotations" where it has labels or names its TRUTH, and the class
    names.

    Raises:
        UserError: there is no such dataset, or it cannot be read.
    """
    register_datasets(cfg)
    if name not in DatasetCatalog:
        raise UserError(f"--dataset {name} is not declared: {suggestion(name, cfg.SSOD.DATASETS)}")
    metadata = MetadataCatalog.get(name)
    truth = metadata.get("truth_file")
    if truth:
        root, masks = metadata.get("image_root", ""), bool(cfg.MODEL.MASK_ON)
        known = CocoSet(name, truth, root, masks=masks)
        return list(known.labeled_records()), known.classes()
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as error:  # Detectron2's own sets
        raise UserError(
            f"{error.filename}, needed by {name}, does not exist: put it there."
        ) from None
    if cfg.MODEL.MASK_ON and declared_set(name) is None:
        records = list(with_masks(name, records))
    return records, list(dataset_classes(name) or ())


def spread(total: int, number: int) -> List[int]:
    """At most `number` of the indices 0..total-1, evenly spread."""
    return sorted({index * total // number for index in range(number)}) if total else []


def _label_panel(image: Tensor, record: Dict[str, Any], names: List[str], caption: str) -> Panel:
    annotations = record.get("annotations", ())
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return Panel(
        image,
        caption,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64),
        names=names,
        masks=_masks_of(annotations, tuple(image.shape[1:])),
    )


def _masks_of(annotations: Sequence[Dict[str, Any]], size: Tuple[int, ...]) -> Optional[Tensor]:
    """bool (M, H, W) where all annotations have masks (`MODEL.MASK_ON`)."""
    if not annotations or not all(is_rle(a.get("segmentation")) for a in annotations):
        return None
    masks = [decode_mask(a["segmentation"]) for a in annotations]
    return bit_masks(masks, (size[0], size[1])).tensor


def _counted(title: str, boxes: int) -> str:
    return f"{title}: {boxes} box{'' if boxes == 1 else 'es'}"


def _base(record: Dict[str, Any]) -> str:
    return os.path.basename(record["file_name"])


class Views:
    """Samples as the training loader makes them, by the same mapper; truth where there is one."""

    def __init__(self, cfg: CfgNode, methods: nn.ModuleDict, names: List[str]) -> None:
        found: Dict[str, Any] = {}
        for name, method in methods.items():
            assert isinstance(method, Method)
            found[name] = method.view_transform()
        transforms = {name: t for name, t in found.items() if t is not None}
        self._mapper = TwoViewMapper.from_config(cfg, transforms, seed=max(0, cfg.SEED))
        self.swap = cfg.INPUT.FORMAT == "RGB"
        self._names = names

    def sample(self, record: Dict[str, Any], index: int, stream: Optional[str] = None) -> Sample:
        """Deterministic: it depends on the seed and the index alone.

        Args:
            stream: "labeled" or "unlabeled", as training has the image; None: labelled where its
                boxes are known.
        """
        stream = stream or ("labeled" if "annotations" in record else "unlabeled")
        return self._mapper(record, SampleRef(stream, index, index))

    def panel(self, sample: Sample, view: str, title: str) -> Panel:
        """One view ("weak" or "strong") with its labels, pasted ones included, if there are any."""
        image: Tensor = getattr(sample, view)
        panel = Panel(image.flip(0) if self.swap else image, title, names=self._names)
        strong = view == "strong"
        labels = (sample.strong_instances if strong else None) or sample.instances
        pasted = sample.extras.get("CropBank") if strong else None
        if labels is not None:
            panel.boxes, panel.classes = labels.gt_boxes.tensor, labels.gt_classes
            panel.masks = labels.gt_masks.tensor if labels.has("gt_masks") else None
        elif pasted is not None:  # an unlabelled image has no other labels
            panel.boxes, panel.classes, panel.masks = pasted.boxes, pasted.classes, pasted.masks
        if labels is not None or pasted is not None:
            panel.caption = _counted(title, len(panel.boxes))
        return panel


def label_cells(loaded: Loaded) -> Callable[[Dict[str, Any], int], List[Panel]]:
    """Images as they are in their files, with their labels."""
    names = loaded[1]

    def cell(record: Dict[str, Any], index: int) -> List[Panel]:
        image = torch.from_numpy(np.ascontiguousarray(read_image(record, "BGR").transpose(2, 0, 1)))
        panel = _label_panel(image, record, names, _base(record))
        if "annotations" in record:
            panel.caption = _counted(_base(record), len(panel.boxes))
        return [panel]

    return cell


def view_cells(
    cfg: CfgNode, loaded: Loaded, stream: Optional[str] = None
) -> Callable[[Dict[str, Any], int], List[Panel]]:
    """The weak and the strong view that training would see; `stream` as in `Views.sample`."""
    views = Views(cfg, methods_with_data(cfg), loaded[1])

    def cell(record: Dict[str, Any], index: int) -> List[Panel]:
        sample = views.sample(record, index, stream)
        return [
            views.panel(sample, "weak", f"{_base(record)}, weak view"),
            views.panel(sample, "strong", "strong view"),
        ]

    return cell


def pseudo_cells(
    cfg: CfgNode, loaded: Loaded, weights: str, score: Optional[float]
) -> Callable[[Dict[str, Any], int], List[Panel]]:
    """The teacher's labels on the weak view, beside the truth if there is one.

    Args:
        weights: a full checkpoint, or the teacher's weights. score: None for the labels that
            `SSOD.METHODS` select; else every candidate with at least this score, whatever the
            methods say.
    """
    if score is None and not cfg.SSOD.METHODS:
        raise UserError(
            "SSOD.METHODS is empty, so nothing selects pseudo-labels: add --score, such as --score 0.7."
        )
    core = load_teacher(cfg, weights)
    views = Views(cfg, core.methods, loaded[1])
    names = model_classes(cfg, loaded[1])

    def cell(record: Dict[str, Any], index: int) -> List[Panel]:
        sample = views.sample(record, index)
        hidden = replace(sample, instances=None)
        context = core.context(SSODBatch([], [hidden]))
        with EventStorage():
            context.teacher_outputs = core.label([hidden])
            row = core.refine(context).instances[0]
        row = row[row.selected if score is None else row.scores >= score]
        title = _counted(f"{_base(record)}, pseudo", len(row))
        panel = replace(views.panel(hidden, "weak", title), names=names)
        panel.boxes, panel.classes, panel.scores = row.gt_boxes.tensor, row.gt_classes, row.scores
        panel.masks = row.gt_masks.tensor if row.has("gt_masks") else None
        truth = sample.instances is not None
        return [panel] + ([views.panel(sample, "weak", "truth")] if truth else [])

    return cell


def detection_cells(
    cfg: CfgNode, loaded: Loaded, weights: str, score: float, role: Optional[str]
) -> Callable[[Dict[str, Any], int], List[Panel]]:
    """A model's detections on the images as at test time, beside the labels where there are any."""
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = score
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = score
    model = load_detector(cfg, weights, role)
    names = model_classes(cfg, loaded[1])
    resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    def cell(record: Dict[str, Any], index: int) -> List[Panel]:
        image = read_image(record, cfg.INPUT.FORMAT)
        moved = T.AugInput(image)
        resize(moved)
        tensor = torch.from_numpy(moved.image.astype("float32").transpose(2, 0, 1))
        size = {"height": image.shape[0], "width": image.shape[1]}
        with torch.no_grad():
            found = model([{"image": tensor, **size}])[0]["instances"].to("cpu")
        found = found[found.scores >= score]  # families have keys of their own for it
        bgr = image[:, :, ::-1] if cfg.INPUT.FORMAT == "RGB" else image
        shown = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))
        panel = Panel(
            shown,
            _counted(f"{_base(record)}, detected", len(found)),
            found.pred_boxes.tensor,
            found.pred_classes,
            found.scores,
            names,
            found.pred_masks if found.has("pred_masks") else None,
        )
        if "annotations" not in record:
            return [panel]
        title = _counted("truth", len(record["annotations"]))
        return [panel, _label_panel(shown, record, loaded[1], title)]

    return cell


def model_classes(cfg: CfgNode, fallback: List[str]) -> List[str]:
    """Class names of the training set, or of the drawn set if the former is not available."""
    try:
        return check_classes(cfg) or fallback
    except (UserError, OSError):
        return fallback


def draw_cells(
    records: List[Dict[str, Any]],
    number: int,
    make: Callable[[Dict[str, Any], int], List[Panel]],
) -> Iterator[Tuple[Dict[str, Any], List[Panel]]]:
    """(record, panels) of each readable image chosen; the others are listed on stderr."""
    for index in progress(spread(len(records), number), "drawing"):
        try:
            yield records[index], make(records[index], index)
        except UnreadableImage as error:
            print(f"skipped: {error.file_name} ({error.reason})", file=sys.stderr)


def save(path: str, image: np.ndarray) -> None:
    """Writes a uint8 RGB (H, W, 3) image; the suffix says how."""
    _, encoded = cv2.imencode(os.path.splitext(path)[1], image[:, :, ::-1])
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        write_atomically(path, lambda file: file.write(encoded.tobytes()))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): choose another --output."
        ) from None


def write(output: str, cells: Iterator[Tuple[Dict[str, Any], List[Panel]]], what: str) -> List[str]:
    """One sheet where `output` ends with .png or .jpg, else a file for each image in that folder.

    Returns:
        The paths written.
    """
    suffix = os.path.splitext(output)[1].lower()
    if suffix in (".png", ".jpg", ".jpeg"):
        found = [panels for _, panels in cells]
        if found:
            save(output, contact_sheet(found))
        return [output] if found else []
    paths = []
    for number, (record, panels) in enumerate(cells):
        stem = os.path.splitext(_base(record))[0]
        path = os.path.join(output, f"{number:03d}_{stem}_{what}.png")
        save(path, beside([draw_panel(panel, single_size(panel)) for panel in panels]))
        paths.append(path)
    return paths


def _check_arguments(args: argparse.Namespace) -> None:
    suffix = os.path.splitext(args.output)[1].lower()
    if suffix not in ("", ".png", ".jpg", ".jpeg") and not os.path.isdir(args.output):
        raise UserError(f"--output {args.output}: name a .png or .jpg file, or a folder.")
    needs_model = args.what in ("pseudo", "detections")
    if needs_model and not args.weights:
        raise UserError(f"--what {args.what} needs --weights: name a checkpoint or weights file.")
    if args.weights and not needs_model:
        raise UserError(f"--what {args.what} draws without a model: leave --weights out.")
    if args.num < 1:
        raise UserError(f"--num {args.num}: draw at least 1 image.")
    if args.score is not None and not 0.0 <= args.score <= 1.0:
        raise UserError(f"--score {args.score}: use a score between 0 and 1.")
    if args.model and args.what != "detections":
        raise UserError("--model is for --what detections: leave it out.")


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod visualise",
        description="Draw what a dataset, the training views, a teacher or a trained model look like.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--dataset", required=True, metavar="NAME", help="from SSOD.DATASETS, or built in"
    )
    parser.add_argument(
        "--what",
        choices=("labels", "views", "pseudo", "detections"),
        default="labels",
        help="labels (or hidden TRUTH); weak and strong view; a teacher's pseudo-labels; a model's detections",
    )
    parser.add_argument("--weights", metavar="FILE", help="for pseudo and detections")
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        help="which one of a full checkpoint detects (default: teacher)",
    )
    parser.add_argument(
        "--num", type=int, default=16, help="images, spread evenly over the dataset"
    )
    parser.add_argument(
        "--output",
        default="visualise.png",
        metavar="FILE.png|DIR",
        help="one sheet, or a folder of files",
    )
    parser.add_argument(
        "--score",
        type=float,
        help="lowest score drawn: of detections (default 0.5); of pseudo-labels (default: what the methods select)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, at the end")
    args = parser.parse_args(argv)
    _check_arguments(args)
    cfg = load_config(args.config_file, split_opts(args.opts))
    loaded = load_dataset(cfg, args.dataset)
    if args.what == "labels":
        make = label_cells(loaded)
    elif args.what == "views":
        make = view_cells(
            cfg, loaded, "unlabeled" if args.dataset in cfg.DATASETS.UNLABELED else None
        )
    elif args.what == "pseudo":
        make = pseudo_cells(cfg, loaded, args.weights, args.score)
    else:
        score = 0.5 if args.score is None else args.score
        make = detection_cells(cfg, loaded, args.weights, score, args.model)
    paths = write(args.output, draw_cells(loaded[0], args.num, make), args.what)
    if not paths:
        raise UserError(f"No image of {args.dataset} could be read: check its folder.")
    print(paths[0] if len(paths) == 1 else f"{len(paths)} files in {args.output}")


if __name__ == "__main__":
    run_cli(main)
