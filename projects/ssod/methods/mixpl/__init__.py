"""MixPL: MixUp and Mosaic of images with their pseudo-labels."""

from ssod.methods.mixpl.method import MixPL

__all__ = ["MixPL"]
