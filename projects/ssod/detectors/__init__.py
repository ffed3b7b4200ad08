"""Detectron2's detector, driven step by step."""

from ssod import compat

compat.apply()
