"""Checkpoints in Detectron2's format. They are written atomically and read without running code.

A full checkpoint is `{"model": student, <checkpointable>: its state, ...}`; `last_checkpoint` in
the same folder names the checkpoint to resume from. A weights file is `{"model": weights}`, which
any Detectron2 model loads.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from typing import Any, Dict, List, Mapping, Optional

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ssod.backbones.loading import weights_by_name
from ssod.backbones.names import NameMatch
from ssod.errors import NothingLeftToTrain, UserError
from ssod.utils.atomic import write_atomically
from ssod.utils.run_folder import weights_of
from ssod.utils.safe_pickle import load_pickle
from ssod.utils.tensor_file import load_tensor_file, unnest


class _TensorFileCheckpointer(Checkpointer):
    """The last `_load_file` of Detectron2's chain. It reads a PyTorch file that holds only tensors
    and plain values.
    """

    def _load_file(self, f: str) -> Dict[str, Any]:
        return unnest(load_tensor_file(f))


def _check_sums(path: str) -> None:
    """Raises `UserError` if a file's check sums are wrong. PyTorch writes them but never checks
    them.
    """
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                intact = archive.testzip() is None
        except (zipfile.BadZipFile, EOFError):
            intact = False
        if not intact:
            raise UserError(f"{path} is damaged (its check sums are wrong).")


def _checked(data: Dict[str, Any], path: str) -> Dict[str, Any]:
    """Raises `UserError` unless the weights are a dict of tensors by name."""
    for role in ("model", "teacher"):
        weights = data.get(role, {})
        if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
            raise UserError(f"{path} holds no weights by name under {role!r}: name a weights file.")
    return data


class SSODCheckpointer(DetectionCheckpointer, _TensorFileCheckpointer):
    """Detectron2's checkpointer with the student as "model". Every object with a state_dict may be
    added under its own key.

    All ranks load. Rank 0 saves, without any collective.

    Args:
        model: the student, not wrapped in DDP. save_dir: the folder that `save` writes to and that
            resuming reads.
        checkpointables: objects with `load_state_dict()` and a `state_dict()` of tensors and plain
            Python values.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: Optional[bool] = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logging.getLogger(__name__)
        self._keys_read: List[str] = []
        self._by_name = False
        # Which weights of the last file matched the model. None if a full checkpoint was restored.
        self.name_match: Optional[NameMatch] = None

    # ---------------------------------------------------------------- writing

    def save(self, name: str, tag_last: bool = True, **kwargs: Any) -> None:
        """Writes `<save_dir>/<name>.pth` with the full state, and updates the pointer.

        The file is on the disk before `last_checkpoint` changes, so the pointer names a complete
        file even if the process is killed. `tag_last` False leaves the pointer as it is.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        data.update(kwargs)
        path = self._path_of(name)
        self.logger.info(f"Saving checkpoint to {path}")
        write_atomically(path, lambda file: torch.save(data, file))
        if tag_last:
            self.tag_last_checkpoint(os.path.basename(path))

    def save_weights(self, name: str, state_dict: Mapping[str, torch.Tensor]) -> str:
        """Writes `<save_dir>/<name>.pth` with weights only, which plain Detectron2 reads. The
        pointer stays.

        Returns:
            The path, also on other ranks than 0, which write nothing.
        """
        path = self._path_of(name)
        if self.save_dir and self.save_to_disk:
            self.logger.info(f"Saving weights to {path}")
            write_atomically(path, lambda file: torch.save({"model": dict(state_dict)}, file))
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Replaces the pointer."""
        pointer = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(pointer, lambda file: file.write(last_filename_basename.encode()))

    def _path_of(self, name: str) -> str:
        assert name == os.path.basename(name), name
        return os.path.join(self.save_dir, f"{name}.pth")

    # ---------------------------------------------------------------- reading

    def load_file(self, path: str) -> Dict[str, Any]:
        """Reads a file without changing any module. The weights are under "model".

        The folder of a finished run may be given instead of its result file.

        Raises:
            UserError: the file does not exist, cannot be read, or holds more than tensors and plain
                values.
        """
        local = self._local(path)
        if local.endswith((".pkl", ".pyth")):
            return self._load_file(local)
        return _checked(unnest(load_tensor_file(local)), local)

    def resume_or_load(self, path: str, *, resume: bool = True) -> Dict[str, Any]:
        """Resumes from the file that `last_checkpoint` names, if there is one and `resume` is True.
        Otherwise loads only the weights of `path`.

        Called on all ranks, which must agree on the file.

        Raises:
            UserError: the file is missing, damaged or does not fit, or ranks see different files.
        """
        resuming = resume and self.has_checkpoint()
        source = self.get_checkpoint_file() if resuming else path
        if len(set(comm.all_gather(source))) > 1:
            raise UserError(
                f"The processes do not see the same checkpoint in {self.save_dir}: put OUTPUT_DIR on a file system that all "
                "machines share, or copy last_checkpoint and the file it names to each."
            )
        if not resuming:
            return self.load(path, checkpointables=[])
        try:
            _check_sums(source)
            return self.load(source)
        except NothingLeftToTrain:
            raise
        except UserError as error:
            raise UserError(f"Cannot resume: {error} {self._advice(source)}") from None

    def load(self, path: str, checkpointables: Optional[List[str]] = None) -> Dict[str, Any]:
        """Loads the weights into the model, and each checkpointable that the file holds into its
        object.

        Args:
            path: a file, a URL or a finished run's folder. Empty: nothing is loaded.
                checkpointables: names of those to load. None: all.

        Returns:
            The other entries of the file.
        """
        if not path:
            return {}
        path = weights_of(path)
        self._local(path)
        wanted = list(self.checkpointables if checkpointables is None else checkpointables)
        self._keys_read, self.name_match = [], None
        if not wanted:
            self._by_name = True
            try:
                rest = super().load(path, checkpointables)
            finally:
                self._by_name = False
            assert self.name_match is not None
            level = logging.INFO if self.name_match.complete else logging.WARNING
            self.logger.log(level, f"{path}: {self.name_match}.")
            return rest
        try:
            rest = super().load(path, checkpointables)
        except (RuntimeError, KeyError, ValueError) as error:
            detail = str(error).strip().splitlines()[-1].strip()
            raise UserError(
                f"{path} does not fit this configuration ({detail}): use the configuration that wrote it, or another OUTPUT_DIR."
            ) from error
        absent = [key for key in wanted if key not in self._keys_read]
        if absent:
            self.logger.info(
                f"{path} has no {', '.join(absent)}: {'it starts' if len(absent) == 1 else 'they start'} fresh."
            )
        return rest

    def get_checkpoint_file(self) -> str:
        """The file that `last_checkpoint` names. Empty if there is no `last_checkpoint`."""
        pointer = os.path.join(self.save_dir, "last_checkpoint")
        if not os.path.isfile(pointer):
            return ""
        with open(pointer, errors="replace") as file:
            name = file.read().strip()
        if not name or name != os.path.basename(name):
            raise UserError(f"{pointer} names no file: {self._advice('')}")
        return os.path.join(self.save_dir, name)

    def _load_file(self, filename: str) -> Dict[str, Any]:
        """Detectron2's `_load_file`, except that no file can run code."""
        if filename.endswith(".pkl"):
            data = self._load_published(filename)
        elif filename.endswith(".pyth"):  # pycls
            weights = load_tensor_file(filename).get("model_state")
            if not isinstance(weights, dict):
                raise UserError(
                    f"{filename} has no 'model_state', as pycls checkpoints have: rename it to .pth."
                )
            weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
            data = {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        else:
            data = super()._load_file(filename)
        self._keys_read = list(data)
        return _checked(data, filename)

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        """Detectron2's `_load_model`. For a file of weights only, timm and torchvision names are
        matched first.
        """
        if self._by_name:
            checkpoint["model"], self.name_match = weights_by_name(self.model, checkpoint)
            checkpoint.pop("matching_heuristics", None)
        return super()._load_model(checkpoint)

    def _load_published(self, filename: str) -> Dict[str, Any]:
        if zipfile.is_zipfile(filename):  # torch.save wrote a file of this name
            return unnest(load_tensor_file(filename))
        with open(filename, "rb") as file:
            data = load_pickle(file, filename)
        if not isinstance(data, dict) or not isinstance(data.get("blobs", {}), dict):
            raise UserError(
                f"{filename} holds a {type(data).__name__}, not a dict of weights: name a weights file."
            )
        if "model" in data and "__author__" in data:  # Detectron2's model zoo
            return data
        data = unnest(data)
        if any("." in str(key) for key in data["model"]):  # PyTorch's names; Caffe2's have no dots
            return data
        data = data["model"]
        # Caffe2 and Detectron 1. Only their detectors have "blobs"; their backbones do not.
        blobs = {
            key: value
            for key, value in data.get("blobs", data).items()
            if not str(key).endswith("_momentum")
        }
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}

    def _local(self, path: str) -> str:
        path = weights_of(path)
        try:
            local = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        except Exception as error:  # no connection, no such bucket, ...
            raise UserError(
                f"Cannot fetch {path} ({error}): fetch it by hand and give the file's path."
            ) from error
        if not os.path.isfile(local):
            raise UserError(
                f"{path} does not exist: check the path (MODEL.WEIGHTS, --weights or last_checkpoint)."
            )
        return local

    def _advice(self, broken: str) -> str:
        """How to recover when `last_checkpoint` names a missing or damaged file."""
        pointer = os.path.join(self.save_dir, "last_checkpoint")
        files = [
            os.path.join(self.save_dir, name)
            for name in os.listdir(self.save_dir)
            if re.match(r"model_.*\.pth$", name)
        ]
        others = sorted((f for f in files if f != broken), key=os.path.getmtime)
        older = (
            f"write {os.path.basename(others[-1])} into {pointer} to go on from there, or "
            if others
            else ""
        )
        return f"To recover, {older}delete {pointer} to start from scratch."
