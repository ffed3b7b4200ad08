"""Datasets that are plain folders of images, read recursively: unlabelled sets without any JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional

from ssod.data.formats.registry import optional_path, register_format, resolve_path
from ssod.data.records import Record, is_image
from ssod.errors import UserError


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
        """Image files below the folder, sorted, with "/" on every platform; hidden files and folders are left out."""
        if not os.path.isdir(self.images):
            raise UserError(f"{self.images}, IMAGES of {self.name}, is no folder: correct IMAGES.")
        found = []
        for folder, folders, files in os.walk(self.images, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = os.path.relpath(folder, self.images)
            for file_name in files:
                if is_image(file_name) and not file_name.startswith("."):
                    path = file_name if below == "." else os.path.join(below, file_name)
                    found.append(path.replace(os.sep, "/"))
        if not found:
            raise UserError(
                f"{self.images}, IMAGES of {self.name}, holds no image files: correct IMAGES."
            )
        return sorted(found)

    def unlabeled_records(self) -> List[Record]:
        """Image ids count from 1 in the order of the sorted paths; sizes are read when first needed."""
        return [
            Record(file_name=os.path.join(self.images, path), image_id=i + 1)
            for i, path in enumerate(self.relative_paths())
        ]

    def labeled_records(self) -> List[Record]:
        raise UserError(
            f"{self.name} is a plain folder without labels: name it in DATASETS.UNLABELED only."
        )
