"""Datasets that are plain folders of images, read recursively. They are unlabelled sets without any
JSON.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ssod.data.columns import Column
from ssod.data.formats.registry import optional_path, register_format, resolve_path
from ssod.data.formats.walk import only_files
from ssod.data.packing import pack_values
from ssod.data.paths_column import image_records
from ssod.data.records import IMAGE_SUFFIXES, Record, is_image
from ssod.errors import UserError, relative_to

logger = logging.getLogger(__name__)


def _is_new(folder: str, visited: Set[str]) -> bool:
    """Whether a folder was not visited yet under any name. It counts as visited from now on."""
    real = os.path.realpath(folder)
    if real in visited:
        return False
    visited.add(real)
    return True


# (folder, time of its last change) -> its images, so that the folder is walked once per run.
_listings: Dict[Tuple[str, int], Column] = {}


def forget_listings() -> None:
    """Clears the cache of folder listings."""
    _listings.clear()


@register_format("folder", required=("IMAGES",), optional=("TRUTH",))
@dataclass(frozen=True)
class FolderSet:
    """`{FORMAT: folder, IMAGES: folder}`."""

    name: str
    images: str
    truth: Optional[str] = None

    @classmethod
    def from_node(cls, name: str, node: Mapping[str, Any]) -> "FolderSet":
        return cls(name, resolve_path(node["IMAGES"]), optional_path(node, "TRUTH"))

    @property
    def source(self) -> str:
        return self.images

    def files_to_hash(self) -> List[str]:
        return []

    def names_to_hash(self) -> List[str]:
        return self.relative_paths()

    def classes(self) -> List[str]:
        return []

    def metadata(self) -> Dict[str, Any]:
        return {"image_root": self.images}

    def has_labels(self) -> bool:
        return False

    def relative_paths(self) -> List[str]:
        """Image files below the folder, sorted, with "/" on every platform. Hidden files and
        folders are left out.

        Links to folders are followed, but no folder is visited twice. Files with other suffixes are
        counted in a warning. Pipes, sockets and devices are listed in one.
        """
        if not os.path.isdir(self.images):
            raise UserError(
                f"{self.images}, IMAGES of {self.name}, is no folder{relative_to(self.images)}: correct IMAGES."
            )
        key = self.images, os.stat(self.images).st_mtime_ns
        if key not in _listings:
            _listings[key] = pack_values(self._walk())
        listed = _listings[key]
        return listed.span(0, len(listed))

    def _walk(self) -> List[str]:
        found: List[str] = []
        others: Counter[str] = Counter()
        visited = {os.path.realpath(self.images)}
        for folder, folders, files in os.walk(self.images, followlinks=True):
            folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
            folders[:] = [name for name in folders if _is_new(os.path.join(folder, name), visited)]
            below = os.path.relpath(folder, self.images)
            shown = [name for name in files if not name.startswith(".")]
            for file_name in only_files(folder, shown):
                if not is_image(file_name):
                    others[os.path.splitext(file_name)[1].lower() or "no suffix"] += 1
                    continue
                path = file_name if below == "." else os.path.join(below, file_name)
                found.append(path.replace(os.sep, "/"))
        if others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
            logger.warning(
                f"{self.images}: left out {sum(others.values())} files whose suffix is not that of an image ({kinds}); "
                f"images are {', '.join(IMAGE_SUFFIXES)}."
            )
        if not found:
            raise UserError(
                f"{self.images}, IMAGES of {self.name}, holds no image files ({', '.join(IMAGE_SUFFIXES)}): "
                "correct IMAGES."
            )
        return sorted(found)

    def unlabeled_records(self) -> Sequence[Record]:
        """Image ids count from 1 in the order of the sorted paths. Sizes are read when first
        needed.
        """
        return image_records(self.images, self.relative_paths())

    def labeled_records(self) -> Sequence[Record]:
        raise UserError(
            f"{self.name} is a plain folder without labels: name it in DATASETS.UNLABELED only."
        )
