"""Datasets, views, samplers and the training loader."""

from ssod import compat

compat.apply()
