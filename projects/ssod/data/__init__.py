"""Datasets, views, samplers and the training loader."""
