"""`make_splits --corrected`: corrected labels move their images to the labelled set.

Boxes are XYXY in pixels of the image file until they are written, then COCO's XYWH.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ssod.active_learning.candidates import FileFinder, evaluated_images, image_sets, same_file
from ssod.active_learning.moving import SplitSet, open_set
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.data.declarations import suggestion
from ssod.data.formats.annotated import ImageLabels
from ssod.data.splits import sealed, write_files
from ssod.errors import UserError, first_names
from ssod.own_data.choose import common_folder, read_chosen
from ssod.own_data.collection import Collection

_LISTED = 5
# Formats with one file for many images, which lists those too that nobody has labelled.
_ONE_FILE = ("coco", "lvis", "cvat", "label_studio")


@dataclass
class Sorted:
    """The corrected images by what becomes of them.

    Attributes:
        moved: (dataset, image id) -> the labels. others: reason -> paths of images that stay where
            they are.
    """

    moved: Dict[Tuple[str, Any], ImageLabels] = field(default_factory=dict)
    others: Dict[str, List[str]] = field(default_factory=dict)

    def leave(self, reason: str, path: str) -> None:
        self.others.setdefault(reason, []).append(path)


def take_back(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        args: with `corrected` (a path), `dataset` (names instead of `DATASETS.UNLABELED`), `prefix`
            (None: in place, with `force`) and the options of `ssod.own_data.options`.

    Raises:
        UserError: the labels cannot be read, have classes that training has not, or label no image
            of the unlabelled sets.
    """
    has_stored_labels = bool(cfg.SSOD.PSEUDO_LABELS)
    cfg = image_sets(cfg, args.dataset or ())
    classes = check_classes(cfg, ("TRAIN",))
    unlabelled = load_unlabeled(cfg)
    collection = _read(args, unlabelled)
    for message in collection.messages:
        print(f"note: {message}")
    found = sort_images(cfg, collection, unlabelled)
    _check_classes(args.corrected, collection, found.moved.values(), classes)
    for reason, paths in found.others.items():
        print(f"{len(paths)} images {reason}: {first_names(paths, _LISTED)}")
    if not found.moved:
        raise UserError(
            f"{args.corrected} has no labels for an image of {', '.join(cfg.DATASETS.UNLABELED)}: correct it or --images."
        )
    _write(cfg, args, found, collection, classes)
    if cfg.MODEL.MASK_ON:
        print("note: MODEL.MASK_ON is set, but the moved images have boxes alone")
    if has_stored_labels:
        print("note: SSOD.PSEUDO_LABELS has labels of the moved images too: make the file anew")


def _read(args: argparse.Namespace, unlabelled: Sequence[Dict[str, Any]]) -> Collection:
    """The corrected labels; where their images do not lie beside them, those of the set count."""
    if zipfile.is_zipfile(args.corrected):
        raise UserError(f"{args.corrected} is an archive: unpack it and name the folder.")
    first = None
    try:
        collection = read_chosen(args.corrected, args)
        if args.images or collection.labelled():
            return collection
    except UserError as error:
        first = error
        if args.images or not os.path.exists(args.corrected):
            raise
    root = common_folder(os.path.dirname(record["file_name"]) for record in unlabelled)
    try:
        again = argparse.Namespace(**{**vars(args), "images": root})
        return read_chosen(args.corrected, again)
    except UserError as second:
        # The first message is about the labels as they are, unless only the images were missing.
        raise (second if first is None or "correct IMAGES" in str(first) else first) from None


def sort_images(
    cfg: CfgNode, collection: Collection, unlabelled: Sequence[Dict[str, Any]]
) -> Sorted:
    """Which labels are for unlabelled images, and why the others are not used."""
    known = {same_file(record["file_name"]): "are labelled already" for record in load_labeled(cfg)}
    for part, file in evaluated_images(cfg):
        known.setdefault(same_file(file), f"are in DATASETS.{part}, and would spoil it")
    own = {same_file(record["file_name"]): record for record in unlabelled}
    # One finder for all images: of two with the same name, the right one may be a labelled one.
    files = list(dict.fromkeys([*own, *known]))
    finder, found = FileFinder([{"file_name": file} for file in files]), Sorted()
    roots = [
        str(MetadataCatalog.get(name).get("image_root") or "")
        for name in (*cfg.DATASETS.UNLABELED, *cfg.DATASETS.TRAIN)
    ]
    one_file = set(collection.formats) <= set(_ONE_FILE)
    for photo in collection.photos:
        if photo.boxes is None and not one_file:
            continue  # an image of the folder that nobody has labelled
        index = _find(finder, collection.full_path(photo), photo.path, roots)
        reason = _why_not(files[index] if index >= 0 else None, index, known)
        if photo.boxes is None:
            reason = None if reason else "have no box and stay unlabelled"
        if reason is not None:
            found.leave(reason, photo.path)
        if reason is not None or photo.boxes is None:
            continue
        record = own[files[index]]
        key = record["dataset_name"], record["image_id"]
        if key in found.moved:
            found.leave("are labelled twice, of which the first counts", photo.path)
        else:
            found.moved[key] = photo
    return found


def _find(finder: FileFinder, path: str, relative: str, roots: Sequence[str]) -> int:
    """As `FileFinder.find`, but the same path below a set's folder comes before other guesses."""
    for choice in (path, *(os.path.join(root, relative) for root in roots if root)):
        index = finder.exact(choice)
        if index is not None:
            return index
    return finder.find(path)


def _why_not(file: Optional[str], index: int, known: Dict[str, str]) -> Optional[str]:
    """Why an image is not moved; None for one of the unlabelled sets."""
    if file is not None:
        return known.get(file)
    return "are in no image set" if index == -1 else "may be one of several of that name"


def _check_classes(
    source: str, collection: Collection, photos: Any, classes: Sequence[str]
) -> None:
    used = Counter(b.label for photo in photos for b in photo.boxes)
    unknown = [name for name in used if name not in classes]
    if unknown:
        raise UserError(
            f"{source} has {sum(used[name] for name in unknown)} boxes of classes that DATASETS.TRAIN has not "
            f"({first_names(unknown)}): {suggestion(unknown[0], classes)}"
        )


def _write(
    cfg: CfgNode,
    args: argparse.Namespace,
    found: Sorted,
    collection: Collection,
    classes: Sequence[str],
) -> None:
    target = open_set(cfg, cfg.DATASETS.TRAIN[0])
    names = [name for name in cfg.DATASETS.UNLABELED if name in {key[0] for key in found.moved}]
    sources = [open_set(cfg, name) for name in names]
    before = target.box_counts(classes)
    files = {
        (source.name, image["id"]): (source, image)
        for source in sources
        for image in source.content["images"]
    }
    target.widen([source.full_path(image) for source, image in files.values()])
    note = {"file": os.path.basename(os.path.normpath(args.corrected)), "images": len(found.moved)}
    for key, photo in found.moved.items():
        source, image = files[key]
        boxes = [(b.label, b.corners, b.iscrowd) for b in photo.boxes or ()]
        target.add(image, source.full_path(image), boxes, photo.size)
    for source in sources:
        source.remove({image for name, image in found.moved if name == source.name})
    written = [target, *(source for source in sources if source.content["images"])]
    places = _places(args, written, target)
    contents = {}
    for one in written:
        info = dict(one.content.get("info") or {})
        info["ssod_corrected"] = [*info.get("ssod_corrected", []), note]
        contents[places[one.name]] = sealed({**one.content, "info": info})
    write_files(contents, force=args.force)
    _report(args, found, written, sources, places, before, classes)


def _places(
    args: argparse.Namespace, written: Sequence[SplitSet], target: SplitSet
) -> Dict[str, Path]:
    """Set -> its file."""
    if args.prefix is None:
        for one in written:
            if one.file is None or one.is_moved:
                raise UserError(
                    f"{one.name} cannot be changed in its place, because it is no COCO file or needs other IMAGES: "
                    "add --prefix, which writes new files."
                )
        return {one.name: Path(one.file) for one in written if one.file}
    several = len(written) > 2
    return {
        one.name: args.prefix.with_name(
            f"{args.prefix.name}_labeled.json"
            if one is target
            else f"{args.prefix.name}_{f'{one.name}_' if several else ''}unlabeled.json"
        )
        for one in written
    }


def _report(
    args: argparse.Namespace,
    found: Sorted,
    written: Sequence[SplitSet],
    sources: Sequence[SplitSet],
    places: Dict[str, Path],
    before: Counter,
    classes: Sequence[str],
) -> None:
    target = written[0]
    after = target.box_counts(classes)
    empty = sum(not photo.boxes for photo in found.moved.values())
    print(f"{len(found.moved)} images moved to {target.name}, {empty} of them without objects")
    print("boxes: " + ", ".join(f"{name} {before[name]} -> {after[name]}" for name in classes))
    for one in written:
        print(f"{places[one.name]}: {len(one.content['images'])} images of {one.name}")
    for source in sources:
        if source not in written:
            print(f"{source.name} has no image left: take it out of DATASETS.UNLABELED")
    if args.prefix is None:
        print(f"{args.config_file} trains on them as it is.")
        return
    print(f"\nTo train on them, let SSOD.DATASETS of {args.config_file} say:")
    for one in written:
        print(f"    {one.name}: {one.declaration(str(places[one.name]))}")
    if all(one.file is not None for one in written):
        keys = []
        for one in written:
            keys.append(f"SSOD.DATASETS.{one.name}.ANNOTATIONS {places[one.name]}")
            if one.is_moved:
                keys.append(f"SSOD.DATASETS.{one.name}.IMAGES {one.root}")
        print(f"\nor end the command with: {' '.join(keys)}")
