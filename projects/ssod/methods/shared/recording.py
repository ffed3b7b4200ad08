"""Records arrays of methods during training, in small files that the report draws."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from ssod.utils.atomic import write_atomically
from ssod.utils.step_files import StepFiles

if TYPE_CHECKING:
    from ssod.engine.trainer import SSODTrainer

FOLDER = "ci_ssod"


class RecordArrays(HookBase):
    """Writes `<OUTPUT_DIR>/ci_ssod/<method>_step_<n>.npz` and per-class scalars at every
    evaluation.

    Only rank 0 writes.

    Args:
        name: name of the method.
        arrays: called with the number of steps done. Arrays of K entries also become
            `<name>/<array>/<class>` scalars.
    """

    trainer: "SSODTrainer"

    def __init__(self, name: str, arrays: Callable[[int], Dict[str, np.ndarray]]) -> None:
        self.name, self.arrays = name, arrays

    def before_train(self) -> None:
        self.files = _files(self.trainer.cfg.OUTPUT_DIR, self.name)
        if comm.is_main_process():
            self.files.drop_after(self.trainer.start_iter)

    def after_step(self) -> None:
        done, period = self.trainer.iter + 1, self.trainer.cfg.TEST.EVAL_PERIOD
        due = done == self.trainer.max_iter or (period > 0 and done % period == 0)
        if not due or not comm.is_main_process():
            return
        arrays = self.arrays(done)
        class_names = self.trainer.data.class_names
        content: Dict[str, Any] = {"classes": np.array(class_names), **arrays}
        write_atomically(self.files.path(done), lambda file: np.savez_compressed(file, **content))
        storage = get_event_storage()
        for key, values in arrays.items():
            if values.shape == (len(class_names),):
                for label, value in zip(class_names, values.tolist()):
                    storage.put_scalar(f"{self.name}/{key}/{label}", value, smoothing_hint=False)


def _files(output_dir: str, name: str) -> StepFiles:
    return StepFiles(os.path.join(output_dir, FOLDER), ".npz", prefix=f"{name}_")


def read_recorded(output_dir: str, name: str) -> List[Tuple[int, Dict[str, np.ndarray]]]:
    """(step, arrays) of the files that can be read, ascending. A run may be writing at the same
    time.
    """
    rows = []
    for step, path in _files(output_dir, name).found():
        try:
            with np.load(path, allow_pickle=False) as file:
                rows.append((step, {key: file[key] for key in file.files}))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            continue
    return rows
