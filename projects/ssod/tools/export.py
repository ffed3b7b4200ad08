"""Turns a training result into a plain Detectron2 model: config, weights and class names, without anything of this project.

python -m ssod.tools.export --config-file X.yaml --weights OUTPUT/teacher_best.pth --output DIR
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    build_model,
)
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY
from torch import Tensor, nn

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.loading import detector_state
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.utils.atomic import write_atomically


def export(
    cfg: CfgNode, weights: str, output: str, model: Optional[str] = None
) -> Tuple[str, str, str]:
    """Writes `config.yaml`, `model.pth` and `classes.json`.

    Args:
        cfg: the training config. weights: a weights file or a full training checkpoint.
        model: "teacher" (default) or "student" of a full checkpoint; must be None for a weights file.

    Returns:
        The three paths, absolute.

    Raises:
        UserError: the file cannot be read, does not fit the config, or has no such model.
    """
    folder = os.path.abspath(output)
    config_path, weights_path, classes_path = (
        os.path.join(folder, name) for name in ("config.yaml", "model.pth", "classes.json")
    )
    plain = plain_config(cfg)
    state = detector_state(SSODCheckpointer(nn.Identity()).load_file(weights), weights, model)
    _check_fits(plain, state, weights)
    # Detectron2 looks relative paths up from the current folder, so that only an absolute one works from everywhere.
    plain.MODEL.WEIGHTS = weights_path
    write_atomically(weights_path, lambda file: torch.save({"model": state}, file))
    write_atomically(config_path, lambda file: file.write(plain.dump().encode()))
    names = json.dumps(_class_names(cfg), indent=1)
    write_atomically(classes_path, lambda file: file.write(names.encode()))
    return config_path, weights_path, classes_path


def plain_config(cfg: CfgNode) -> CfgNode:
    """The config reduced to the keys of `get_cfg()`.

    Raises:
        UserError: a part of the model is registered by this project, so that plain Detectron2 could not build it.
    """
    for key, registry in (
        ("META_ARCHITECTURE", META_ARCH_REGISTRY),
        ("BACKBONE.NAME", BACKBONE_REGISTRY),
        ("PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY),
        ("ROI_HEADS.NAME", ROI_HEADS_REGISTRY),
        ("ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY),
    ):
        name: Any = cfg.MODEL
        for part in key.split("."):
            name = name[part]
        if name in registry and registry.get(name).__module__.startswith("ssod."):
            raise UserError(
                f"MODEL.{key} {name} is not Detectron2's own, and plain Detectron2 could not build it."
            )
    plain = get_cfg()
    _copy_known(cfg, plain)
    plain.OUTPUT_DIR = get_cfg().OUTPUT_DIR
    return plain


def _copy_known(source: CfgNode, target: CfgNode) -> None:
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _copy_known(source[key], value)
        else:
            target[key] = source[key]


def _check_fits(plain: CfgNode, state: Dict[str, Tensor], path: str) -> None:
    building = plain.clone()
    building.MODEL.DEVICE = "cpu"
    try:
        build_model(building).load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = (
            " ".join(str(error).splitlines()[1].split())[:200] if "\n" in str(error) else str(error)
        )
        raise UserError(
            f"{path} does not fit the config ({detail}): give the config it was trained with."
        ) from None


def _class_names(cfg: CfgNode) -> List[str]:
    """Of the training set; numbers where it is not at hand."""
    from ssod.data.catalog import class_number, register_datasets

    key, count = class_number(cfg)
    try:

        register_datasets(cfg)
        name = cfg.DATASETS.TRAIN[0]
        if not MetadataCatalog.get(name).get("thing_classes"):
            DatasetCatalog.get(name)  # some datasets learn their classes when first read
        names = list(MetadataCatalog.get(name).thing_classes)
    except (UserError, OSError, KeyError, IndexError, AttributeError) as error:
        print(f"note: class names are not at hand ({error}); classes.json numbers them.")
        return [str(index) for index in range(count)]
    if len(names) != count:
        raise UserError(f"{key} is {count}, but {name} has {len(names)} classes: set it to that.")
    return names


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m ssod.tools.export",
        description="Write the trained model as plain Detectron2: config.yaml, model.pth, classes.json.",
    )
    parser.add_argument("--config-file", required=True, help="the training config")
    parser.add_argument(
        "--weights", required=True, help="teacher_best.pth, or a full training checkpoint"
    )
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        help="which one of a full checkpoint (default: teacher)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that training was given"
    )
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, split_opts(args.opts))
    config_path, weights_path, classes_path = export(cfg, args.weights, args.output, args.model)
    print(
        f"Wrote {config_path}, {weights_path} and {classes_path}. To run it, with Detectron2 alone:\n"
    )
    print(
        f"cfg = get_cfg(); cfg.merge_from_file({config_path!r})  # from detectron2.config import get_cfg"
    )
    print(
        f"cfg.MODEL.WEIGHTS = {weights_path!r}  # needed only if you move the folder: its new place"
    )
    print(
        "print(DefaultPredictor(cfg)(cv2.imread('image.jpg')))  # import cv2; from detectron2.engine import DefaultPredictor"
    )


if __name__ == "__main__":
    run_cli(main)
