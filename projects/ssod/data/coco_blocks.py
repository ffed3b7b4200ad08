"""Turns the images and annotations of a large COCO file into arrays. They arrive in blocks.

Shapes: n images and a annotations of the file, in the file's order.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

from ssod.data.columns import Column, Maybe, Numbers, Table, ends_of, smallest
from ssod.data.json_lists import Irregular
from ssod.data.paths_column import PathsBuilder
from ssod.data.records import read_image_size

try:
    import msgspec
except ImportError:  # optional: without it, large files are read like small ones
    msgspec = None  # type: ignore[assignment]


_NO_ID = -1


_FAR = 1e9  # no image side has so many pixels: the size counts as unknown


_ENDLESS = 1e300  # no box has numbers as large as this


def can_read() -> bool:
    """Whether the package that decodes the blocks is installed."""
    return msgspec is not None


def decoders_of(labeled: bool) -> Dict[str, Callable[[bytes], List[Any]]]:
    unset = Union[int, msgspec.UnsetType]
    number = Union[int, float, msgspec.UnsetType]

    def entry(name: str, fields: List[Any]) -> Callable[[bytes], List[Any]]:
        return _checked(List[msgspec.defstruct(name, fields, gc=False)])  # type: ignore[misc]

    decoders = {
        "images": entry(
            "Image",
            [("id", int), ("file_name", str)]
            + [(key, Optional[int], None) for key in ("height", "width")],
        )
    }
    if labeled:
        decoders["categories"] = _checked(List[Dict[str, Any]])
        decoders["annotations"] = entry(
            "Annotation",
            [
                ("image_id", int),
                ("category_id", int),
                ("bbox", Tuple[float, float, float, float]),
                ("id", unset, msgspec.UNSET),
                ("area", number, msgspec.UNSET),
                ("iscrowd", unset, msgspec.UNSET),
            ],
        )
    return decoders


def _checked(kind: Any) -> Callable[[bytes], List[Any]]:
    decode = msgspec.json.Decoder(kind).decode

    def checked(content: bytes) -> List[Any]:
        try:
            return decode(content)
        except msgspec.ValidationError as error:  # valid JSON, but not of the expected types
            raise Irregular(str(error)) from None

    return checked


def _integers(values: List[Any]) -> np.ndarray:
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        raise Irregular("a number above 64 bits") from None


def ascend(values: np.ndarray) -> bool:
    """Whether each value is above the one before it."""
    return bool((values[1:] > values[:-1]).all())


def _given(values: List[Any], default: Any) -> Tuple[np.ndarray, List[Any]]:
    """Returns bool (n,), true where a value is given, and the values with defaults filled in."""
    unset = msgspec.UNSET
    if unset not in values:
        return np.ones(len(values), dtype=bool), values
    given = np.fromiter((v is not unset for v in values), dtype=bool, count=len(values))
    return given, [default if v is unset else v for v in values]


class ImageBlocks:
    """Collects the images.

    Attributes, after `finish`:
        ids, heights, widths: int64 (n,). An unknown size is 0.
        order: the images' places, sorted by id. None if the file is sorted by id.
    """

    def __init__(self, paths: PathsBuilder) -> None:
        self._paths = paths
        self._parts: List[Tuple[np.ndarray, ...]] = []
        self._table: Optional[Table] = None

    def add(self, entries: List[Any]) -> None:
        names = [entry.file_name for entry in entries]
        if not all(names) or "\\" in "".join(names):
            raise Irregular("a file name that is empty or has back-slashes")
        self._paths.add(names)
        columns = (
            [entry.id for entry in entries],
            [entry.height or 0 for entry in entries],
            [entry.width or 0 for entry in entries],
        )
        self._parts.append(tuple(map(_integers, columns)))

    def finish(self) -> None:
        if not self._parts or not len(self._paths):
            raise Irregular("no images")
        self.ids, heights, widths = (np.concatenate(part) for part in zip(*self._parts))
        self._parts = []
        # Converters write 0 or -1 if they do not know a size.
        known = (heights > 0) & (widths > 0) & (heights < _FAR) & (widths < _FAR)
        self.heights, self.widths = np.where(known, heights, 0), np.where(known, widths, 0)
        self.order = None if ascend(self.ids) else np.argsort(self.ids, kind="stable")
        if self.order is not None and not ascend(self.ids[self.order]):
            raise Irregular("an id twice")

    def places_of(self, ids: np.ndarray) -> np.ndarray:
        """The place of the image with each id. -1 for an id that no image has."""
        ordered = self.ids if self.order is None else self.ids[self.order]
        place = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
        there = ordered[place] == ids
        return np.where(there, place if self.order is None else self.order[place], -1)

    def read_missing_sizes(self) -> None:
        """Reads unknown sizes from the image files. Boxes cannot be checked without a size."""
        names = self.table().columns["file_name"]
        for place in np.flatnonzero(self.heights == 0).tolist():
            try:
                size = read_image_size(names.span(place, place + 1)[0])
            except OSError:
                continue  # the loader reports it
            self.heights[place], self.widths[place] = size

    def table(self, annotations: Optional[Column] = None) -> Table:
        if self._table is None:
            self._table = Table({"file_name": self._paths.finish()}, len(self.ids))
        columns = {**self._table.columns, "image_id": Numbers(smallest(self.ids))}
        known = self.heights > 0
        for key, sizes in (("height", self.heights), ("width", self.widths)):
            column = Numbers(smallest(sizes if known.all() else sizes[known]))
            columns[key] = column if known.all() else Maybe(column, ends_of(known))
        if annotations is not None:
            columns["annotations"] = annotations
        return Table(columns, len(self.ids))

    def has_repeated_files(self) -> bool:
        return self._paths.has_repetitions()


class BoxBlocks:
    """Collects the annotations as arrays (a,). Without a value `ids` is -1 and `areas` is NaN."""

    def __init__(self) -> None:
        self._parts: List[Tuple[np.ndarray, ...]] = []

    def add(self, entries: List[Any]) -> None:
        has_id, ids = _given([entry.id for entry in entries], _NO_ID)
        _, areas = _given([entry.area for entry in entries], np.nan)
        flagged, crowds = _given([entry.iscrowd for entry in entries], 0)
        self._parts.append(
            (
                _integers([entry.image_id for entry in entries]),
                _integers([entry.category_id for entry in entries]),
                np.array([entry.bbox for entry in entries], dtype=np.float64).reshape(-1, 4),
                _integers(ids),
                has_id,
                np.array(areas, dtype=np.float64),
                (_integers(crowds) != 0).astype(np.int8),
                flagged,
            )
        )

    def finish(self) -> None:
        columns = [np.concatenate(part) for part in zip(*self._parts)]
        self._parts = []
        self.images, self.categories, self.boxes, self.ids = columns[:4]
        self.has_id, self.areas, self.crowds, flagged = columns[4:]
        self.all_flagged = bool(flagged.all())
        if (np.abs(self.boxes) >= _ENDLESS).any():
            raise Irregular("a box with endless numbers")

    def label(self, number: int) -> str:
        return f"annotation {self.ids[number]}" if self.has_id[number] else f"annotations[{number}]"

    def corners(self) -> np.ndarray:
        """The boxes as XYXY, (a, 4)."""
        found = self.boxes.copy()
        found[:, 2:] += found[:, :2]
        return found
