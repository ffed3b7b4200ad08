"""Runs what `python -m ssod.tools.export` has written.

from ssod.deploy.predictor import predictor
predictor("exported")(cv2.imread("image.jpg"))
"""

from __future__ import annotations

import os

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor

from ssod.config import add_ssod_config
from ssod.engine.imports import import_parts
from ssod.errors import UserError


def predictor(folder: str, device: str = "") -> DefaultPredictor:
    """Detectron2's predictor of an exported model, wherever its folder has been moved.

    It takes a BGR image (H, W, 3) and gives {"instances": ...}. Parts of yours that the model has
    must be importable.

    Args:
        folder: with config.yaml and model.pth. device: "cpu" or "cuda"; empty: the config's, or the
            CPU where there is no GPU.

    Raises:
        UserError: the folder is not an exported one, or a package that the model needs is missing.
    """
    config, weights = (os.path.join(folder, name) for name in ("config.yaml", "model.pth"))
    for path in (config, weights):
        if not os.path.isfile(path):
            raise UserError(f"{path} does not exist: name a folder that ssod.tools.export wrote.")
    with open(config) as file:
        listed = (yaml.safe_load(file).get("SSOD") or {}).get("IMPORTS", [])
    import_parts(listed)
    known = get_cfg()
    add_ssod_config(known)  # registers this project's parts
    cfg: CfgNode = get_cfg()
    cfg.set_new_allowed(True)
    cfg.merge_from_file(config)
    cfg.MODEL.WEIGHTS = os.path.abspath(weights)
    cfg.MODEL.DEVICE = device or (cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu")
    return DefaultPredictor(cfg)
