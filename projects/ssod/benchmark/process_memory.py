"""How much memory a process takes, and how much of it is its own. Linux only."""

from __future__ import annotations

import threading
from typing import Any, Dict, Optional

from ssod.errors import UserError

_MAP = "/proc/self/smaps_rollup"


def own_memory() -> Dict[str, int]:
    """Bytes of this process: `rss`, all of it; `pss`, with shared pages divided by their users;
    `private`, the pages that nobody else has (USS).

    Raises:
        UserError: the system does not tell.
    """
    found: Dict[str, int] = {}
    try:
        with open(_MAP) as file:
            for line in file:
                name, _, rest = line.partition(":")
                if rest.strip().endswith("kB"):
                    found[name] = 1024 * int(rest.split()[0])
    except OSError:
        raise UserError(f"{_MAP} cannot be read: memory is measured on Linux only.") from None
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {"rss": found["Rss"], "pss": found["Pss"], "private": private}


def _anonymous() -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class PeakMemory:
    """As a context: the most anonymous memory of this process, by looking 20 times a second.

    Pages of files that are mapped do not count, because the system takes them back at need.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, _anonymous())
            if self._stop.wait(0.05):
                return

    def __enter__(self) -> "PeakMemory":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
