"""Backbones beyond Detectron2's.

Importing this package registers them; their libraries are imported when one is built.
"""

from ssod.backbones import timm_builders  # noqa: E402, F401
