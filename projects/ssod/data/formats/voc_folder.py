"""VOC's XML files without lists of splits. They are next to their images, as labelImg writes them,
or in a separate folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, List, Mapping, Optional

from ssod.data.formats.annotated import AnnotatedSet, ImageLabels, LabelReader, Reading
from ssod.data.formats.hint import hints_at_format
from ssod.data.formats.images import ImageFolder, ImageNotFound
from ssod.data.formats.registry import class_list, optional_path, resolve_path
from ssod.data.formats.walk import files_below
from ssod.data.voc import parse_box, read_xml
from ssod.errors import UserError


@hints_at_format("voc")
@dataclass(frozen=True)
class VocFolderSet(AnnotatedSet):
    """`{FORMAT: voc, ROOT: folder}` without SPLIT: every XML file below ROOT labels an image below
    ROOT.

    A file without objects says that nothing is on the image. An image without a file counts as
    unlabelled.
    """

    @classmethod
    def from_node(cls, name: str, node: Mapping[str, Any]) -> "VocFolderSet":
        return cls(
            name=name,
            annotations=resolve_path(node["ROOT"]),
            class_names=class_list(node),
            truth=optional_path(node, "TRUTH"),
            groups=optional_path(node, "GROUPS"),
        )

    def label_files(self) -> List[str]:
        return files_below(self.annotations, ".xml")

    def image_paths(self) -> List[str]:
        return ImageFolder(self.annotations).paths

    def read(self) -> Reading:
        lists = os.path.join(self.annotations, "ImageSets", "Main")
        if os.path.isdir(lists):
            splits = sorted(f[:-4] for f in os.listdir(lists) if f.endswith(".txt"))
            choices = f"to one of {', '.join(splits)}" if splits else f"and write {lists}/SPLIT.txt"
            raise UserError(f"{self.name} has no SPLIT, but {lists} exists: set SPLIT {choices}.")
        reader = LabelReader(self.annotations, ImageFolder(self.annotations))
        for path in reader.folder.paths:
            reader.add_image(path)
        for file_name in self.label_files():
            xml = read_xml(file_name)
            if xml.tag != "annotation":
                continue  # a folder may hold other XML files
            relative = os.path.relpath(file_name, self.annotations).replace(os.sep, "/")
            entry = _find_image(reader, relative, xml.findtext("filename") or "")
            if entry is None:
                continue
            reader.mark_labelled_by(entry, relative)
            for number, item in enumerate(xml.findall("object")):
                where = f"{relative} object {number + 1}"
                reader.add_box(entry, item.findtext("name"), parse_box(item), where)
        return reader.finish()


def _find_image(reader: LabelReader, relative: str, written: str) -> Optional[ImageLabels]:
    """The image next to the file, otherwise the one of the same name in a parallel folder,
    otherwise the one that the file names.

    <filename> and <path> come last, because they are not updated when files are renamed or moved.
    """
    try:
        return reader.add_image(reader.folder.of_stem(relative))
    except ImageNotFound:
        pass
    pure = PurePosixPath(relative)
    try:
        return reader.add_image(reader.folder.find(str(pure.with_suffix(""))))
    except ImageNotFound:
        return reader.find_image(written or relative, str(pure.parent), relative)
