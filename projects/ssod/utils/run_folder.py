"""The model that a training run ends with."""

from __future__ import annotations

import os

from ssod.errors import UserError

BEST, LAST = "teacher_best.pth", "teacher_final.pth"
# The weights in the folder of a Hugging Face checkpoint, which has a config.json too.
_HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")


def weights_of(path: str) -> str:
    """The file that a path to weights names: itself, or of a run's OUTPUT_DIR the run's result, or
    of a Hugging Face checkpoint's folder its weights.

    That is the best teacher on `DATASETS.VAL`, or the last teacher of a run without one: nothing is
    ever chosen on the test set. Detectron2's "?matching_heuristics=True" is dropped: names are
    matched in any case.

    Raises:
        UserError: the folder holds no finished run.
    """
    path = path.removesuffix("?matching_heuristics=True")
    if not os.path.isdir(path):
        return path
    for name in (BEST, LAST, *_HUGGING_FACE):
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    raise UserError(
        f"{path} holds neither {BEST} nor {LAST}: name a weights file, the OUTPUT_DIR of a finished run, or the folder of a "
        f"Hugging Face checkpoint ({_HUGGING_FACE[0]})."
    )
