"""A table with one box per line: CSV as written by Roboflow, AutoML, Open Images, keras-retinanet
and many scripts.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ssod.data.formats.annotated import AnnotatedSet, LabelReader, Reading
from ssod.data.formats.geometry import ordered
from ssod.data.formats.images import ImageFolder
from ssod.data.formats.registry import register_format
from ssod.errors import UserError

# Names of columns, compared in lower case without blanks, "_" and "-".
_IMAGE = "filename file filepath image imagepath imagename imageid img imgpath path uri gcsfilepath"
_LABEL = "class label name category labelname classname categoryname object"
_SPLIT = "split set subset mluse"
_CORNERS = (
    "xmin ymin xmax ymax",
    "x1 y1 x2 y2",
    "x0 y0 x1 y1",
    "left top right bottom",
    "bboxxmin bboxymin bboxxmax bboxymax",
)
_SIZES = (
    "x y width height",
    "x y w h",
    "left top width height",
    "xmin ymin width height",
    "bboxx bboxy bboxwidth bboxheight",
)
# keras-retinanet and AutoML write no header.
_HEADERLESS = {
    6: ["filename", "x1", "y1", "x2", "y2", "class"],
    11: ["split", "path", "label", "xmin", "ymin", "-", "-", "xmax", "ymax", "-", "-"],
}
_LARGEST_RELATIVE = 1.5


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the positions of its columns.

    Args:
        box: the four columns of a box, or the one column that holds "[x, y, width, height]".
        first_line: the number of the first row's line.
    """

    rows: List[List[str]]
    image: int
    box: Tuple[int, ...]
    is_size: bool
    label: Optional[int]
    split: Optional[int]
    crowd: Optional[int]
    first_line: int
    decimal_comma: bool


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "").replace("_", "").replace("-", "")


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


def read_table(path: str) -> Table:
    """Reads a file with commas, semicolons or tabs between its columns.

    Raises:
        UserError: the file is not text, or a column is missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct its path or create it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): save it as UTF-8.") from None
    first = text.split("\n", 1)[0]
    separator = max((",", ";", "\t"), key=first.count)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if any(row)]
    if not rows:
        raise UserError(f"{path} is empty: name another file.")
    header, first_line = rows[0], 2
    if any(_is_number(cell) for cell in header) or len(header) in _HEADERLESS and "" in header:
        if len(header) not in _HEADERLESS:
            raise UserError(
                f"{path} has no header: let its first line name the columns, such as filename,xmin,ymin,xmax,ymax,class."
            )
        header, first_line = _HEADERLESS[len(header)], 1
    body = rows[first_line - 1 :]
    return _columns(path, header, body, first_line, separator == ";")


def _columns(
    path: str, header: Sequence[str], rows: List[List[str]], first_line: int, comma: bool
) -> Table:
    places: Dict[str, int] = {}
    for i, name in enumerate(header):
        places.setdefault(_plain(name), i)

    def one_of(names: str) -> Optional[int]:
        return next((places[name] for name in names.split() if name in places), None)

    def all_of(names: str) -> Tuple[int, ...]:
        found = tuple(places.get(name, -1) for name in names.split())
        return found if min(found) >= 0 else ()

    corners = next(filter(None, map(all_of, _CORNERS)), ())
    # The columns width and height are the image's if there are corners too.
    sizes = () if corners else next(filter(None, map(all_of, _SIZES)), ())
    single = one_of("bbox box")
    box = corners or sizes or (() if single is None else (single,))
    image = one_of(_IMAGE)
    if image is None or not box:
        missing = "the image" if image is None else "the box"
        raise UserError(
            f"{path} has the columns {', '.join(header)}, of which none is {missing}: "
            "name them filename, xmin, ymin, xmax, ymax, class."
        )
    return Table(
        rows,
        image,
        box,
        not corners,
        one_of(_LABEL),
        one_of(_SPLIT),
        one_of("isgroupof iscrowd"),
        first_line,
        comma,
    )


@register_format("csv", required=AnnotatedSet.REQUIRED, optional=(*AnnotatedSet.OPTIONAL, "SPLIT"))
@dataclass(frozen=True)
class CsvSet(AnnotatedSet):
    """`{FORMAT: csv, ANNOTATIONS: labels.csv, IMAGES: folder}`; SPLIT picks the rows of one value
    of the column split.

    Boxes are corners or corner and size, in pixels, or relative where no value is above 1. A row
    with an image and no box says that nothing is on the image. Without a column for the class,
    every box is an "object".
    """

    def label_files(self) -> List[str]:
        return [self.annotations]

    def read(self) -> Reading:
        table = read_table(self.annotations)
        reader = LabelReader(self.annotations, ImageFolder(self.image_root))
        rows = [(i + table.first_line, row) for i, row in enumerate(table.rows)]
        if self.split:
            rows = _rows_of_split(self.annotations, table, rows, self.split)
        boxes = [_numbers(table, row) for _, row in rows]
        values = [abs(v) for box in boxes for v in box or () if v == v]
        relative = bool(values) and max(values) <= _LARGEST_RELATIVE
        for (line, row), box in zip(rows, boxes):
            entry = reader.find_image(
                _cell(row, table.image), where=f"line {line}: {_cell(row, table.image)}"
            )
            if entry is None:
                continue
            reader.mark_labelled(entry)
            if box is None:
                continue
            if relative and box:
                if entry.size is None:
                    reader.skipped.add(f"line {line}", "of an unreadable image")
                    continue
                height, width = entry.size
                box = [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
            label = "object" if table.label is None else _cell(row, table.label)
            crowd = table.crowd is not None and _cell(row, table.crowd).lower() in ("1", "true")
            reader.add_box(entry, label, box, f"line {line}", iscrowd=crowd)
        return reader.finish()


def _cell(row: List[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


def _numbers(table: Table, row: List[str]) -> Optional[List[float]]:
    """XYXY. [] if a number is missing or not a number. None if the row has no box."""
    cells = [_cell(row, column) for column in table.box]
    if not any(cells):
        return None
    try:
        if len(cells) == 1:
            values = [float(v) for v in json.loads(cells[0].replace("(", "[").replace(")", "]"))]
        else:
            values = [float(c.replace(",", ".") if table.decimal_comma else c) for c in cells]
        x, y, right, bottom = values
    except (TypeError, ValueError):
        return []
    # A negative width is an error, so it is kept for `box_problem` to find.
    return [x, y, x + right, y + bottom] if table.is_size else ordered(x, y, right, bottom)


def _rows_of_split(
    path: str, table: Table, rows: List[Tuple[int, List[str]]], split: str
) -> List[Tuple[int, List[str]]]:
    if table.split is None:
        raise UserError(f"{path} has no column split: leave SPLIT out.")
    column = table.split
    kept = [(line, row) for line, row in rows if _cell(row, column).lower() == split.lower()]
    if not kept:
        known = ", ".join(sorted({_cell(row, column) for _, row in rows}))
        raise UserError(f"{path} has no rows of the split {split!r}; its splits: {known}.")
    return kept
