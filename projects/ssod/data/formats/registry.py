"""The values of `FORMAT` in `SSOD.DATASETS`, and the interface of a dataset of any format.

A new format is one class in one file:

    @register_format("mine", required=("ANNOTATIONS",), optional=("IMAGES",))
    @dataclass(frozen=True)
    class MineSet: ...      # with the members of `DeclaredSet`

`ssod.data.declarations` imports the file, or a user's own code imports it before the config is
read.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    TypeVar,
)

from ssod.data.formats.hint import hints_at_format
from ssod.data.records import Record
from ssod.errors import UserError


class DeclaredSet(Protocol):
    """A dataset that `SSOD.DATASETS` declares. Making one reads nothing from disk."""

    @property
    def name(self) -> str:
        """Its key in `SSOD.DATASETS`."""

    @property
    def source(self) -> str:
        """The file or folder that messages name."""

    @property
    def truth(self) -> Optional[str]:
        """A file with the hidden labels of an unlabelled set, for analysis only."""

    @classmethod
    def from_node(cls, name: str, node: Mapping[str, Any]) -> "DeclaredSet":
        """The dataset of an entry whose keys were checked."""

    def files_to_hash(self) -> List[str]:
        """The files that decide which image has which labels. Every rank must see the same."""

    def names_to_hash(self) -> List[str]:
        """The image names that decide which image has which index, if no file lists them."""

    def classes(self) -> List[str]:
        """Class names in the order of their index. Empty if the format has no labels."""

    def metadata(self) -> Dict[str, Any]:
        """The entries of Detectron2's `MetadataCatalog` that are known without reading any file."""

    def has_labels(self) -> bool:
        """Whether the format can hold labels."""

    def unlabeled_records(self) -> Sequence[Record]:
        """Every image, without annotations. Labels are not read if the format allows it."""

    def labeled_records(self) -> Sequence[Record]:
        """Images with "annotations" (class indices; XYXY or XYWH boxes)."""


@dataclass(frozen=True)
class Format:
    """One value of `FORMAT`: the class of its datasets, the keys they need, and the keys they may
    have.
    """

    name: str
    kind: Any
    required: Tuple[str, ...]
    optional: Tuple[str, ...]


FORMATS: Dict[str, Format] = {}
_Kind = TypeVar("_Kind", bound=type)


def register_format(
    name: str, *, required: Tuple[str, ...], optional: Tuple[str, ...] = ()
) -> Callable[[_Kind], _Kind]:
    """Enters a class with the members of `DeclaredSet` into `FORMATS`, as a decorator.

    If its reading methods fail on files of another format, their message names the right FORMAT.
    """

    def register(kind: _Kind) -> _Kind:
        if name in FORMATS:
            raise ValueError(f"FORMAT {name} is registered twice")
        FORMATS[name] = Format(name, kind, required, optional)
        return hints_at_format(name)(kind)

    return register


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The nearest of the choices as a question, or all of them."""
    listed = sorted(choices)
    close = difflib.get_close_matches(name, listed, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"use one of {', '.join(listed)}." if listed else "there is nothing to choose from."


def resolve_path(path: str) -> str:
    """A leading "datasets/" stands for $DETECTRON2_DATASETS/ if that is set, as in Detectron2."""
    root = os.environ.get("DETECTRON2_DATASETS")
    if root and path.replace(os.sep, "/").startswith("datasets/"):
        path = os.path.join(root, path[len("datasets/") :])
    return os.path.expanduser(path)


def optional_path(node: Mapping[str, Any], key: str) -> Optional[str]:
    """The path under a key, or None if the key is missing or empty.

    Raises:
        UserError: the value is not a string.
    """
    value = node.get(key)
    if not value:
        return None
    if not isinstance(value, str):
        raise UserError(f"{key} is {value!r}: name a file.")
    return resolve_path(value)


def class_list(node: Mapping[str, Any]) -> Tuple[str, ...]:
    """The names under CLASSES. Empty if the key is missing.

    Raises:
        UserError: the value is not a list of different names.
    """
    classes = node.get("CLASSES") or ()
    # A YAML list may hold numbers, which are names too. Other values are mistakes.
    if (
        not isinstance(classes, (list, tuple))
        or not all(isinstance(c, (str, int, float)) and str(c).strip() for c in classes)
        or len(set(map(str, classes))) != len(classes)
    ):
        raise UserError(f"CLASSES is {classes!r}: it must be a list of different names.")
    return tuple(map(str, classes))
