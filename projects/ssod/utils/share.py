"""Which part of a long list of shards a job does, where several jobs share it without talking to
each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence

from ssod.errors import UserError


@dataclass(frozen=True)
class Share:
    """Job `index` of `count`. Shard s always belongs to job s % count, even if some shards are
    done.
    """

    index: int = 0
    count: int = 1

    def of(self, shards: Sequence[int]) -> List[int]:
        """The shards of this job."""
        return [shard for shard in shards if shard % self.count == self.index]

    @property
    def whole(self) -> bool:
        """Whether this job does everything, and so goes on when the shards are done."""
        return self.count == 1


def parse_share(text: str) -> Share:
    """Reads "3/64", counted from 0.

    Raises:
        UserError: it is not such a text.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--share {text}: write JOB/JOBS, counted from 0, as in 3/64.")
    return Share(int(index), int(count))
