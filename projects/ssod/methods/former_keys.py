"""Config keys that have been renamed. The former names still work, with a warning.

The config has the former node too, with all values None. So YAML files, KEY VALUE pairs and
assignments can set it as before.
"""

from __future__ import annotations

import logging
from typing import Sequence, Type

from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n

from ssod.methods.base import Method


def add_former_keys(cfg: CfgNode, kind: Type[Method]) -> None:
    """Adds the former nodes of a method. The present node must be there."""
    for former in kind.former_config_keys:
        cfg.SSOD[former] = CfgNode(dict.fromkeys(cfg.SSOD[kind.config_key]))


def with_present_keys(cfg: CfgNode, kinds: Sequence[Type[Method]]) -> CfgNode:
    """A config in which the values of former keys have moved to the present keys. `cfg` itself if
    no former key is set.
    """
    moved = cfg
    for kind in kinds:
        for former in kind.former_config_keys:
            values = {k: v for k, v in cfg.SSOD[former].items() if v is not None}
            if not values:
                continue
            if moved is cfg:
                moved = cfg.clone()
                moved.defrost()
            moved.SSOD[kind.config_key].update(values)
            moved.SSOD[former].update(dict.fromkeys(values))
            log_first_n(
                logging.WARNING,
                f"SSOD.{former} is now called SSOD.{kind.config_key}: rename it in your config.",
                name=__name__,
            )
    if cfg.is_frozen():
        moved.freeze()
    return moved
