"""Pascal VOC's metric beside COCO's: the numbers of Detectron2's `PascalVOCDetectionEvaluator`, on
any set in VOC's layout.

Names are `VOC-AP50`, `VOC-AP75` and `VOC-AP` (mean over IoU 0.50:0.95), in percent. Boxes marked
"difficult" count neither as found nor as missed. Precision is sampled at 11 recalls for 2007, and
integrated for 2012.
"""

from __future__ import annotations

import logging
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from typing import Any, Dict, List, Optional, Sequence, Set

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import BoxMode

from ssod.data.classes import dataset_classes
from ssod.data.readings import dataset_records
from ssod.evaluation.coco import FastCOCOEvaluator

logger = logging.getLogger(__name__)


class VOCEvaluator(FastCOCOEvaluator):
    """`FastCOCOEvaluator` with VOC's numbers among the box metrics.

    Args:
        dataset_name: a set whose metadata has "voc_year".
    """

    def __init__(self, dataset_name: str, output_dir: Optional[str] = None) -> None:
        super().__init__(dataset_name, output_dir=output_dir)
        self._voc = _RecordsEvaluator(dataset_name)

    def reset(self) -> None:
        super().reset()
        self._voc.reset()

    def process(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        super().process(inputs, outputs)
        self._voc.process(inputs, outputs)

    def evaluate(self, img_ids: Optional[Sequence[Any]] = None) -> Dict[str, Any]:
        """COCO's and VOC's numbers. Images that no rank could read are left out of both."""
        results = super().evaluate(img_ids)
        self._voc.left_out = self.left_out
        self._voc.wanted = None if img_ids is None else set(img_ids)
        found = self._voc.evaluate()
        if results and found is not None:
            results["bbox"].update({f"VOC-{name}": float(v) for name, v in found["bbox"].items()})
        return results


class _RecordsEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluator on rewritten annotation files, since some tools omit tags that it
    needs.

    Attributes:
        wanted: ids of the images to evaluate on, None for all. left_out: ids of images that could
            not be read.
    """

    def __init__(self, dataset_name: str) -> None:
        """Does not call Detectron2's `__init__`, which needs the folders of the VOC challenge."""
        self._dataset_name = dataset_name
        self._is_2007 = MetadataCatalog.get(dataset_name).voc_year == 2007
        # File names follow from class names, which may hold any character.
        count = len(dataset_classes(dataset_name) or ())
        self._class_names = [str(index) for index in range(count)]
        self._cpu_device = torch.device("cpu")
        self._logger = logger
        self.wanted: Optional[Set[Any]] = None
        self.left_out: Set[Any] = set()
        self.reset()

    def evaluate(self) -> Optional[Dict[str, Any]]:
        """On rank 0 the metrics, None on the others. Called on all ranks."""
        with tempfile.TemporaryDirectory(prefix="ssod_voc_") as folder:
            self._anno_file_template = os.path.join(folder, "{}.xml")
            self._image_set_path = os.path.join(folder, "images.txt")
            ids = _write_annotations(dataset_records(self._dataset_name), self._anno_file_template)
            used = [i for i in ids if self.wanted is None or i in self.wanted]
            used = [i for i in used if i not in self.left_out]
            with open(self._image_set_path, "w") as file:
                file.write("\n".join(map(str, used)))
            known = set(map(str, used))
            for label, lines in self._predictions.items():
                self._predictions[label] = [row for row in lines if row.split(" ", 1)[0] in known]
            return super().evaluate()


def _write_annotations(records: Sequence[Dict[str, Any]], template: str) -> List[Any]:
    """Writes a file for each record as Detectron2 parses them; returns the image ids."""
    for record in records:
        root = ElementTree.Element("annotation")
        for found in record.get("annotations", ()):
            box = BoxMode.convert(
                [float(v) for v in found["bbox"]], BoxMode(found["bbox_mode"]), BoxMode.XYXY_ABS
            )
            item = ElementTree.SubElement(root, "object")
            values = {"name": found["category_id"], "pose": "Unspecified", "truncated": 0}
            values["difficult"] = int(found.get("difficult", 0))
            for tag, value in values.items():
                ElementTree.SubElement(item, tag).text = str(value)
            corners = ElementTree.SubElement(item, "bndbox")
            # VOC counts pixels from 1, see `ssod.data.voc.parse_box`.
            numbers = (box[0] + 1, box[1] + 1, box[2], box[3])
            for tag, number in zip(("xmin", "ymin", "xmax", "ymax"), numbers):
                ElementTree.SubElement(corners, tag).text = str(round(number))
        ElementTree.ElementTree(root).write(template.format(record["image_id"]))
    return [record["image_id"] for record in records]
