"""Reads the lists of a large JSON file block by block, and decodes only what is asked for.

`json.loads` makes a dict for each entry: 10 GB for ten million of them. Here a block of the file
becomes objects of one class, and the caller turns them into columns before the next one is read.

A block ends between two entries. It is cut where `}, {` stands, which may also be inside of a text
or of an entry. A block that is cut there is no complete JSON, so the cut is tried elsewhere.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

# Smaller files are read as a whole, in a second or two.
LARGE = 8 << 20
_BLOCK = 8 << 20
_NEXT = re.compile(rb"\}\s*,\s*\{")
_LAST = re.compile(rb"\}\s*\]")
_SPACE = re.compile(rb"\s*")
_TAIL = 1 << 16  # where the last cut of a block is looked for first
_TRIES = 20

Decode = Callable[[bytes], List[Any]]


class Irregular(Exception):
    """The file is not as plain as this reader needs. The ordinary reader then says what is wrong,
    or copes with it.
    """


def is_large(path: str) -> bool:
    """Whether a file is so large that its lists are better read in blocks."""
    try:
        return os.path.getsize(path) >= LARGE
    except OSError:
        return False


def lists_of(path: str, decoders: Mapping[str, Decode]) -> Iterator[Tuple[str, List[Any]]]:
    """(key, some entries) of each list, in the file's order, for the outermost object's keys in
    `decoders`. Values under other keys are only passed over.

    Args:
        decoders: key -> makes the entries of the bytes of a JSON list.

    Raises:
        Irregular: the file is no object in UTF-8 with a list of objects under each key, has a key
            twice, or an entry that a decoder refuses.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = _expect(data, 0, b"{")
        seen: Dict[str, None] = {}
        while True:
            key, place = _value(data, _space(data, place))
            if not isinstance(key, str) or key in seen:
                raise Irregular(f"{path}: the key {key!r}")
            seen[key] = None
            place = _space(data, _expect(data, place, b":"))
            if key in decoders:
                place = _expect(data, place, b"[")
                for entries, place in _blocks(data, place, decoders[key]):
                    yield key, entries
            else:
                _, place = _value(data, place)
            place = _space(data, place)
            if data[place : place + 1] == b"}":
                break
            place = _expect(data, place, b",")
        if _space(data, place + 1) != len(data) or set(decoders) - set(seen):
            raise Irregular(path)


def _space(data: mmap.mmap, place: int) -> int:
    """The place of the next byte that is no white space."""
    found = _SPACE.match(data, place)  # type: ignore[arg-type]
    return found.end() if found else place


def _expect(data: mmap.mmap, place: int, sign: bytes) -> int:
    place = _space(data, place)
    if data[place : place + 1] != sign:
        raise Irregular(f"no {sign!r} at byte {place}")
    return place + 1


def _value(data: mmap.mmap, place: int) -> Tuple[Any, int]:
    """Any value, and where it ends."""
    size = 1 << 12
    while True:
        part = data[place : place + size]
        try:
            text = part.decode("utf-8", "ignore" if place + size < len(data) else "strict")
            value, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            end = len(part)
        else:
            # A number that ends with the part may go on behind it.
            if end < len(text):
                return value, place + len(text[:end].encode())
        if place + size >= len(data):
            raise Irregular(f"no value at byte {place}")
        size *= 4


def _blocks(data: mmap.mmap, place: int, decode: Decode) -> Iterator[Tuple[List[Any], int]]:
    """(entries, the place behind them) of one list; the last place is behind the list."""
    start = _space(data, place)
    if data[start : start + 1] == b"]":
        yield [], start + 1
        return
    while True:
        entries, start, last = _block(data, start, decode)
        yield entries, start
        if last:
            return


def _block(data: mmap.mmap, start: int, decode: Decode) -> Tuple[List[Any], int, bool]:
    size = _BLOCK
    while True:
        part = data[start : start + size]
        cut = _last_cut(part)
        if cut is not None:
            entries = _try(part[: cut[0]], decode)
            if entries is not None:
                return entries, start + cut[1], False
        for found, _ in zip(_LAST.finditer(part), range(_TRIES)):
            entries = _try(part[: found.start() + 1], decode)
            if entries is not None:
                return entries, start + found.end(), True
        if start + size >= len(data):
            raise Irregular(f"the list at byte {start} does not end")
        size *= 2


def _last_cut(part: bytes) -> Optional[Tuple[int, int]]:
    """The end of the last entry before another one, and where that one begins."""
    for tail in (_TAIL, len(part)):
        first = max(0, len(part) - tail)
        cuts = list(_NEXT.finditer(part, first))
        if cuts:
            return cuts[-1].start() + 1, cuts[-1].end() - 1
    return None


def _try(entries: bytes, decode: Decode) -> Optional[List[Any]]:
    """The entries. None if they are cut in the wrong place."""
    try:
        if not entries.isascii():
            entries.decode()
        return decode(b"[" + entries + b"]")
    except ValueError:  # no complete JSON, or not in UTF-8
        return None
