"""Answers a wrong FORMAT with the right one."""

from __future__ import annotations

import os
from functools import wraps
from typing import Any, Callable, Iterable, Optional, TypeVar

from ssod.errors import UserError

_Kind = TypeVar("_Kind", bound=type)
_READING = ("classes", "labeled_records", "unlabeled_records", "names_to_hash", "files_to_hash")


class _HintedError(UserError):
    """An error whose message already names the right FORMAT."""


def right_format(declared: str, paths: Iterable[str], images: str = "") -> Optional[str]:
    """The sentence "This looks like ...", if none of the formats that can read the paths is the
    declared one.

    Args:
        images: the declared folder of images, which is assumed to be right.
    """
    from ssod.data.formats.find import find_datasets  # imported here, because it knows all formats

    for path in paths:
        try:
            found = find_datasets(path) if os.path.exists(path) else []
        except Exception:  # a failed guess must not hide the message about the broken file
            continue
        if found and all(one.format != declared for one in found):
            node = dict(found[0].node)
            if images and "IMAGES" in node:
                node["IMAGES"] = images
            entry = ", ".join(f"{key}: {value}" for key, value in node.items())
            return f" This looks like FORMAT {node['FORMAT']}: {{{entry}}}."
    return None


def hints_at_format(declared: str) -> Callable[[_Kind], _Kind]:
    """A decorator of a dataset's class. If its reading methods fail, their message names the right
    FORMAT.
    """

    def decorate(kind: _Kind) -> _Kind:
        for name in _READING:
            if name in vars(kind) or not hasattr(getattr(kind, name), "hinted"):
                setattr(kind, name, _hinted(declared, getattr(kind, name)))
        return kind

    return decorate


def _hinted(declared: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except _HintedError:
            raise
        except UserError as error:
            paths = [getattr(self, key, "") for key in ("annotations", "root", "images")]
            images = getattr(self, "images", "") if len(list(filter(None, paths))) > 1 else ""
            hint = right_format(declared, filter(None, paths), images)
            if hint is None:
                raise
            raise _HintedError(f"{error}{hint}") from None

    call.hinted = True  # type: ignore[attr-defined]
    return call
