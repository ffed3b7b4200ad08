"""Class names that the settings of papers refer to."""

from __future__ import annotations

from typing import Dict, Tuple

# The 20 classes of PASCAL VOC by their names in COCO, in VOC's alphabetical order.
VOC_CLASSES_IN_COCO: Tuple[str, ...] = (
    "airplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorcycle",
    "person",
    "potted plant",
    "sheep",
    "couch",
    "train",
    "tv",
)

_SAME_NAME = (
    "person bicycle car motorcycle airplane bus train truck boat bench cat dog horse sheep cow elephant bear zebra "
    "giraffe backpack umbrella tie frisbee snowboard kite skateboard surfboard bottle cup fork knife spoon banana "
    "apple sandwich broccoli carrot pizza donut cake chair couch bed toilet laptop mouse remote keyboard microwave "
    "oven toaster sink refrigerator book clock vase scissors toothbrush"
).split()
_SAME_NAMES_OF_TWO_WORDS = (
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "baseball bat",
    "baseball glove",
    "tennis racket",
    "wine glass",
    "hot dog",
    "potted plant",
    "cell phone",
)

# COCO class -> its possible names in Objects365. Each release of the data has one of them. Case and
# spaces at the ends do not matter in the comparison. The names are those of the class lists in
# circulation of version 1 (lower case) and version 2 ("Moniter/TV" and "Dinning Table" are spelled
# so there, and corrected in some copies). 79 COCO classes give 78: the paper (CI-SSOD, section 4.1)
# joins "teddy bear" with "bear" and drops "sports ball". The paper prints no table. The pairs with
# different names are ours.
COCO_TO_OBJECTS365: Dict[str, Tuple[str, ...]] = {
    **{name: (name,) for name in (*_SAME_NAME, *_SAME_NAMES_OF_TWO_WORDS)},
    "bird": ("wild bird",),
    "handbag": ("handbag/satchel", "handbag"),
    "suitcase": ("suitcase", "luggage"),
    "skis": ("skis", "skiboard"),
    "bowl": ("bowl/basin", "bowl"),
    "orange": ("orange/tangerine", "orange"),
    "dining table": ("dinning table", "dining table"),
    "tv": ("moniter/tv", "monitor/tv", "tv"),
    "hair drier": ("hair dryer", "hair drier"),
    "teddy bear": ("bear",),
}
