"""Writes a folder that detects objects without Detectron2 and without this project."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

import torch
from detectron2.config import CfgNode
from torch import nn

from ssod.deploy.check import Comparison, Reference, compare_on_images, load_predictor
from ssod.deploy.classes import category_ids, class_names
from ssod.deploy.formats import check_packages, write_onnx, write_torchscript
from ssod.deploy.manifest import FILE, Manifest, input_facts
from ssod.detectors.exporting import flat_detector
from ssod.engine.loading import load_detector
from ssod.errors import UserError

MODEL_FILES = {"torchscript": "model.pt", "onnx": "model.onnx"}
_PREDICT = Path(__file__).with_name("predict.py")


@dataclass
class Exported:
    """What `export_portable` wrote.

    Attributes:
        files: absolute paths. comparison: with the original, None if nothing was compared.
    """

    files: List[str]
    comparison: Optional[Comparison]


def export_portable(
    cfg: CfgNode,
    weights: str,
    output: str,
    format: str,
    *,
    role: Optional[str] = None,
    images: Sequence[str] = (),
    device: str = "cpu",
) -> Exported:
    """Writes the model, `model.json` and `predict.py`, if they detect what the original detects.

    Args:
        cfg: the training config. weights: a weights file, a full training checkpoint or a run's
            folder. format: "torchscript" or "onnx".
        role: "teacher" (default) or "student" of a full checkpoint.
        images: files to compare both on; empty: they are not compared.
        device: where a TorchScript file is to run. ONNX files run anywhere.

    Raises:
        UserError: a package is missing, the model has no such form, or the detections differ. The
            folder is left as it was then.
    """
    if format == "onnx":
        check_packages()
    if device != "cpu" and (format == "onnx" or not torch.cuda.is_available()):
        raise UserError(
            f"--device {device}: "
            + (
                "ONNX files run on any device, leave it out."
                if format == "onnx"
                else "there is no GPU here."
            )
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    model = load_detector(cfg, weights, role)
    return _write(cfg, model, os.path.abspath(output), format, images)


def _write(
    cfg: CfgNode, model: nn.Module, output: str, format: str, images: Sequence[str]
) -> Exported:
    flat, device = flat_detector(model), cfg.MODEL.DEVICE
    facts = input_facts(cfg, model)
    names = class_names(cfg)
    file, comparison, imports = MODEL_FILES[format], None, []
    try:
        os.makedirs(output, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".export-", dir=output)
    except OSError as error:
        raise UserError(f"Cannot write to {output}: {error.strerror or error}.") from None
    try:
        if format == "onnx":
            write_onnx(flat, os.path.join(folder, file))
        else:
            imports = write_torchscript(flat, os.path.join(folder, file), device)
        manifest = Manifest(
            format=format,
            model=file,
            device=device,
            imports=imports,
            outputs=list(flat.outputs),
            classes=names,
            category_ids=category_ids(cfg, len(names)),
            **facts,  # type: ignore[arg-type]
        )
        Path(folder, FILE).write_text(manifest.dump(), encoding="utf-8")
        shutil.copyfile(_PREDICT, os.path.join(folder, "predict.py"))
        if images:
            detector = load_predictor(folder)
            comparison = compare_on_images(Reference(cfg, model), detector, images)
            if not comparison.agrees():
                raise UserError(
                    f"The {format} model does not detect what {type(model).__name__} detects ({comparison.line()}): use "
                    "another --format, and see docs/deploy.md for what can differ."
                )
        written = []
        for name in (file, FILE, "predict.py"):
            os.replace(os.path.join(folder, name), os.path.join(output, name))
            written.append(os.path.join(output, name))
        return Exported(written, comparison)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
