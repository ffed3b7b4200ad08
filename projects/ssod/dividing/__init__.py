"""Divides a labelled dataset into a labelled and an unlabelled part."""
