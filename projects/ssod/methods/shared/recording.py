"""Writes what the methods of this folder know to small files that the report draws."""

from __future__ import annotations

import glob
import os
import re
import zipfile
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from ssod.utils.atomic import write_atomically

if TYPE_CHECKING:
    from ssod.engine.trainer import SSODTrainer

FOLDER = "ci_ssod"


class RecordArrays(HookBase):
    """At every evaluation: `<OUTPUT_DIR>/ci_ssod/<method>_step_<n>.npz`, and per-class scalars. Rank 0 writes.

    Args:
        name: the method's.
        arrays: called with the steps done; arrays of K entries also become `<name>/<array>/<class>` scalars.
    """

    trainer: "SSODTrainer"

    def __init__(self, name: str, arrays: Callable[[int], Dict[str, np.ndarray]]) -> None:
        self.name, self.arrays = name, arrays

    def before_train(self) -> None:
        self.folder = os.path.join(self.trainer.cfg.OUTPUT_DIR, FOLDER)
        # A run that starts again from an earlier step writes the later files anew.
        if comm.is_main_process():
            for step, path in recorded(self.folder, self.name):
                if step > self.trainer.start_iter:
                    os.remove(path)

    def after_step(self) -> None:
        done, period = self.trainer.iter + 1, self.trainer.cfg.TEST.EVAL_PERIOD
        due = done == self.trainer.max_iter or (period > 0 and done % period == 0)
        if not due or not comm.is_main_process():
            return
        arrays = self.arrays(done)
        path = os.path.join(self.folder, f"{self.name}_step_{done}.npz")
        class_names = self.trainer.data.class_names
        content: Dict[str, Any] = {"classes": np.array(class_names), **arrays}
        write_atomically(path, lambda file: np.savez_compressed(file, **content))
        storage = get_event_storage()
        for key, values in arrays.items():
            if values.shape == (len(class_names),):
                for label, value in zip(class_names, values.tolist()):
                    storage.put_scalar(f"{self.name}/{key}/{label}", value, smoothing_hint=False)


def recorded(folder: str, name: str) -> List[Tuple[int, str]]:
    """(step, path) of a method's files, ascending."""
    found = []
    for path in glob.glob(os.path.join(folder, f"{name}_step_*.npz")):
        match = re.fullmatch(rf"{name}_step_(\d+)\.npz", os.path.basename(path))
        if match:
            found.append((int(match.group(1)), path))
    return sorted(found)


def read_recorded(output_dir: str, name: str) -> List[Tuple[int, Dict[str, np.ndarray]]]:
    """(step, arrays) of the files that can be read, ascending; a run may be writing while we look."""
    rows = []
    for step, path in recorded(os.path.join(output_dir, FOLDER), name):
        try:
            with np.load(path, allow_pickle=False) as file:
                rows.append((step, {key: file[key] for key in file.files}))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            continue
    return rows
