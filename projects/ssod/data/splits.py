"""Split files: COCO JSON that holds a hash of its content. Every rank checks the hash."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from detectron2.config import CfgNode
from detectron2.utils import comm

from ssod.data.declarations import DeclaredSet, parse_declarations
from ssod.data.json_file import object_under, read_json
from ssod.errors import UserError, relative_to
from ssod.resources import advice_if_missing
from ssod.utils.atomic import write_atomically
from ssod.utils.progress import progress

_HASHES_AS_THEY_ARE = 4
HASH_KEY = "ssod_sha256"
# Large files have the sha256 of their bytes too, with this value's digits as zeros. A content hash
# needs the whole content in memory, twice: minutes for ten million images.
BYTES_KEY = "ssod_bytes_sha256"
_ZEROS = "0" * 64
LARGE = 64 << 20
_HEAD = 1 << 20  # "info" stands first, so both hashes are in these bytes
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def content_hash(coco: Dict[str, Any]) -> str:
    """sha256 of the content in canonical form, without the hashes themselves. Formatting and key
    order do not matter.
    """
    own = object_under(coco, "info")
    info = {key: value for key, value in own.items() if key not in (HASH_KEY, BYTES_KEY)}
    canonical = json.dumps({**coco, "info": info}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def sealed(coco: Dict[str, Any]) -> Dict[str, Any]:
    """The content with its hash under "info", so that changes by hand are noticed."""
    info = {**object_under(coco, "info"), HASH_KEY: content_hash(coco)}
    info.pop(BYTES_KEY, None)  # of the file that the content comes from
    return {**coco, "info": info}


def split_coco(
    coco: Dict[str, Any], labeled: Set[Any], description: Dict[str, Any]
) -> Dict[str, Dict[str, Any]]:
    """The contents of a split's files: "labeled", "unlabeled" (without annotations), and the hidden
    labels of the unlabelled images in two forms.

    "unlabeled_truth" has the hidden labels unchanged. "unlabeled_true_labels" has them as stored
    pseudo-labels, with score 1 and without crowds.

    Args:
        labeled: ids of the images that keep their labels. All others are unlabelled.
        description: how the split was drawn. It is stored under info.ssod_split.
    """
    parts = {}
    for part in ("labeled", "unlabeled", "unlabeled_truth", "unlabeled_true_labels"):
        inside = part == "labeled"
        annotations = [
            {key: a[key] for key in _ANNOTATION_KEYS if key in a}
            for a in coco["annotations"]
            if part != "unlabeled" and (a["image_id"] in labeled) == inside
        ]
        if part == "unlabeled_true_labels":
            annotations = [{**a, "score": 1.0} for a in annotations if not a.get("iscrowd")]
        content: Dict[str, Any] = {
            "info": {"ssod_split": {**description, "part": part}},
            "images": [image for image in coco["images"] if (image["id"] in labeled) == inside],
            "annotations": annotations,
            "categories": coco["categories"],
        }
        parts[part] = sealed(content)
    return parts


def file_bytes(sealed_content: Dict[str, Any]) -> bytes:
    """The bytes of a split's file. Those of a large one have their own hash under "info"."""
    data = json.dumps(sealed_content).encode()
    if len(data) < LARGE:
        return data
    info = {**object_under(sealed_content, "info"), BYTES_KEY: _ZEROS}
    data = json.dumps({**sealed_content, "info": info}).encode()
    return data.replace(_ZEROS.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def _hash_of_large(path: str) -> Optional[str]:
    """The content hash of a file whose bytes are as they were written. None for any other file."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        own = re.search(f'"{BYTES_KEY}": "([0-9a-f]{{64}})"'.encode(), head)
        content = re.search(f'"{HASH_KEY}": "([0-9a-f]{{64}})"'.encode(), head)
        if own is None or content is None:
            return None
        digest = hashlib.sha256(head[: own.start(1)] + _ZEROS.encode() + head[own.end(1) :])
        while block := file.read(1 << 22):
            digest.update(block)
    return content[1].decode() if digest.hexdigest() == own[1].decode() else None


def write_files(contents: Dict[Path, Dict[str, Any]], *, force: bool = False) -> List[Path]:
    """Writes the files atomically and returns those that changed. An equal file is not written.

    Raises:
        UserError: a file with other content exists and `force` is not set. Nothing is written then.
    """
    changed = []
    for path, content in contents.items():
        if not path.exists():
            changed.append(path)
            continue
        if not path.is_file():
            raise UserError(f"{path} is a folder: write elsewhere.")
        if path.read_bytes() != file_bytes(content):
            if not force:
                raise UserError(
                    f"{path} exists with other content: add --force to replace it, or write elsewhere."
                )
            changed.append(path)
    for path in progress(changed, "writing", unit="file"):
        text = file_bytes(contents[path])
        write_atomically(str(path), lambda file: file.write(text))
    return changed


def _mentions(path: str, text: bytes) -> bool:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0


def _raw_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def verified_hash(path: str) -> str:
    """A hash of a dataset's file. If the file has its own content hash (only split files do), this
    checks it.

    Raises:
        UserError: the file was edited after it was made, is missing or is a folder.
    """
    if not os.path.isfile(path):
        what = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{path} {what}{relative_to(path)}: {advice_if_missing(path)}.")
    if not _mentions(path, HASH_KEY.encode()):
        return _raw_hash(path)
    known = _hash_of_large(path)
    if known is not None:
        return known
    content = read_json(path)
    stored = object_under(content, "info").get(HASH_KEY)
    if stored is None:
        return _raw_hash(path)
    found = content_hash(content)
    if stored != found:
        raise UserError(
            f"{path} was changed after make_splits wrote it: make it again, or delete info.{HASH_KEY} to accept it."
        )
    return found


def dataset_hash(dataset: DeclaredSet) -> str:
    """A hash of the files that decide each image's index: annotations, split list or file names."""
    hashes = [verified_hash(path) for path in dataset.files_to_hash()]
    names = dataset.names_to_hash()
    if names:
        hashes.append(hashlib.sha256("\n".join(names).encode()).hexdigest())
    if len(hashes) > _HASHES_AS_THEY_ARE:  # a set with a label file for each image
        return hashlib.sha256("/".join(hashes).encode()).hexdigest()
    return "/".join(hashes)


def check_split_hashes(cfg: CfgNode) -> None:
    """Checks the files of all declared datasets that `cfg` uses. Every rank must call it.

    Raises:
        UserError: on any rank a split file was edited, or the ranks see different files. It is
            raised on every rank.
    """
    declared = parse_declarations(cfg)
    used = dict.fromkeys(
        name
        for key in ("TRAIN", "UNLABELED", "VAL", "TEST")
        for name in cfg.DATASETS[key]
        if name in declared
    )
    hashes: List[Tuple[str, str]] = []
    problem: Optional[str] = None
    try:
        hashes = [(name, dataset_hash(declared[name])) for name in used]
    except UserError as error:
        problem = str(
            error
        )  # raised below, because the other ranks are waiting for this rank's result
    raise_on_difference(comm.all_gather((hashes, problem)))


def raise_on_difference(ranks: List[Tuple[List[Tuple[str, str]], Optional[str]]]) -> None:
    """Compares the findings of all ranks: the (name, hash) pairs, and the rank's own problem, if
    any.
    """
    for rank, (_, problem) in enumerate(ranks):
        if problem:
            raise UserError(problem if len(ranks) == 1 else f"rank {rank}: {problem}")
    for rank, (hashes, _) in enumerate(ranks):
        for (name, expected), (_, found) in zip(ranks[0][0], hashes):
            if found != expected:
                raise UserError(
                    f"The files of {name} differ between rank 0 and rank {rank}: copy them from one machine."
                )
