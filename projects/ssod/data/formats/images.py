"""Finds the image that an annotation names, for all the ways in which tools spell the path."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import PurePosixPath
from typing import Dict, List, Set

from ssod.data.formats.walk import files_below
from ssod.data.records import IMAGE_SUFFIXES
from ssod.errors import UserError, relative_to


class ImageNotFound(Exception):
    """The reason why a name belongs to no image, in a few words."""


def list_images(root: str) -> List[str]:
    """The images below a folder, by relative path with "/", sorted."""
    found = files_below(root, *IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"{root} holds no image files{relative_to(root)}: correct IMAGES.")
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in found]


class ImageFolder:
    """The images below a folder, by relative path with "/".

    Annotation files name images by relative paths, by paths of the machine where they were made, or
    by bare names.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    @cached_property
    def paths(self) -> List[str]:
        """All images, sorted. They are listed when first needed."""
        if not os.path.isdir(self.root):
            raise UserError(f"{self.root} is no folder{relative_to(self.root)}: correct IMAGES.")
        return list_images(self.root)

    @cached_property
    def _known(self) -> Set[str]:
        return set(self.paths)

    @cached_property
    def _by_name(self) -> Dict[str, List[str]]:
        found: Dict[str, List[str]] = {}
        for path in self.paths:
            found.setdefault(PurePosixPath(path).name, []).append(path)
        return found

    @cached_property
    def _by_stem(self) -> Dict[str, List[str]]:
        found: Dict[str, List[str]] = {}
        for path in self.paths:
            found.setdefault(PurePosixPath(path).stem, []).append(path)
        return found

    def full_path(self, path: str) -> str:
        return os.path.join(self.root, path)

    def find(self, written: str, beside: str = "") -> str:
        """The relative path of the image that a file in the folder `beside` calls `written`.

        The path itself comes first, relative to `beside` and to the root. Then comes the image that
        shares most of the path's last parts: "/home/me/set/a/1.jpg" is a/1.jpg rather than b/1.jpg.
        Then comes an image with another suffix.

        Raises:
            ImageNotFound: there is none, or several fit equally well.
        """
        name = written.strip().replace("\\", "/")
        for base in dict.fromkeys((beside, "")):
            path = os.path.normpath(os.path.join(base, name)).replace(os.sep, "/")
            if path in self._known:
                return path
        parts = PurePosixPath(name).parts
        if not parts:
            raise ImageNotFound("without a file name")
        stem = PurePosixPath(name).stem
        # The last one is for a name without suffix that has a dot, such as "photo.v2".
        for found in (
            self._by_name.get(parts[-1]),
            self._by_stem.get(stem),
            self._by_stem.get(parts[-1]),
        ):
            if found:
                return _nearest(parts, found)
        raise ImageNotFound("without an image file")

    def of_stem(self, path: str) -> str:
        """The image that belongs to a label file, by its name without suffix.

        Args:
            path: path of the label file, relative to the root.

        Raises:
            ImageNotFound: there is no image of that name in that folder, or there are several.
        """
        pure = PurePosixPath(path)
        found = [
            p for p in self._by_stem.get(pure.stem, ()) if PurePosixPath(p).parent == pure.parent
        ]
        if len(found) == 1:
            return found[0]
        raise ImageNotFound("with several images of its name" if found else "without an image file")


def _nearest(parts: tuple, found: List[str]) -> str:
    def shared(path: str) -> int:
        count = 0
        # The suffix may differ, so the last part of the path counts for all of them.
        for mine, theirs in zip(reversed(parts[:-1]), reversed(PurePosixPath(path).parts[:-1])):
            if mine != theirs:
                break
            count += 1
        return count

    scores = [shared(path) for path in found]
    if scores.count(max(scores)) > 1:
        raise ImageNotFound("that may be one of several images of that name")
    return found[scores.index(max(scores))]
