"""Reads a YAML config over its `_BASE_`, which is a file relative to it or one of the packaged
configs.
"""

from __future__ import annotations

from typing import Any, Dict, List

import yaml
from detectron2.config import CfgNode, downgrade_config, upgrade_config
from detectron2.config.compat import guess_version
from detectron2.utils.file_io import PathManager

from ssod.resources import find_base

BASE = "_BASE_"


def read_config(path: str) -> Dict[str, Any]:
    """The file's keys over those of its `_BASE_`. `_BASE_` may name several files, and later ones
    override earlier ones.

    Raises:
        OSError, yaml.YAMLError, UnicodeDecodeError: a file cannot be read. AttributeError: a file
            is not a mapping. ValueError: a mapping and a plain value have the same key.
            RecursionError: the bases form a circle.
    """
    with PathManager.open(path, "r") as file:
        content = yaml.safe_load(file)
    bases = content.pop(BASE, [])
    merged: Dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        _overlay(read_config(find_base(path, base)), merged)
    _overlay(content, merged)
    return merged


def _overlay(new: Dict[str, Any], below: Dict[str, Any]) -> None:
    """Puts the keys of `new` over those of `below`, in place."""
    for key, value in new.items():
        if isinstance(value, dict) and key in below:
            if not isinstance(below[key], dict):
                raise ValueError(f"{key} is a mapping, and a plain value in {BASE}")
            _overlay(value, below[key])
        else:
            below[key] = value


def merge_config(cfg: CfgNode, content: Dict[str, Any], path: str) -> None:
    """Merges the result of `read_config` into a config, as `CfgNode.merge_from_file` does.

    Keys of Detectron2's version 1 are translated.

    Args:
        path: the source of the content, for the log.
    """
    node = CfgNode(content)
    version = node.get("VERSION") or guess_version(node, path)
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(node)
        return
    former = downgrade_config(cfg, to_version=version)
    former.merge_from_other_cfg(node)
    current = upgrade_config(former)
    cfg.clear()
    cfg.update(current)


def listed_imports(path: str) -> Any:
    """The value of SSOD.IMPORTS in a file that may be damaged. An empty list if there is none."""
    empty: List[str] = []
    try:
        return read_config(path)["SSOD"]["IMPORTS"]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return empty
    except (KeyError, TypeError, AttributeError, ValueError):
        return empty
