"""Progress bars: on a terminal, for what takes longer than a few seconds, and by one process."""

from __future__ import annotations

from typing import Any, Iterable, Optional

from detectron2.utils import comm
from tqdm import tqdm

# Seconds after which a bar appears.
_DELAY = 2.0


def progress(
    items: Optional[Iterable[Any]] = None,
    title: str = "",
    *,
    total: Optional[int] = None,
    unit: str = "image",
) -> Any:
    """A `tqdm` over the items, or one that the caller updates.

    It writes to stderr where that is a terminal, and nothing anywhere else.

    Args:
        title: stands before the bar. total: number of the items, where they have no length.
    """
    return tqdm(
        items,
        desc=title or None,
        total=total,
        unit=unit,
        delay=_DELAY,
        leave=False,
        dynamic_ncols=True,
        disable=None if comm.is_main_process() else True,
    )
