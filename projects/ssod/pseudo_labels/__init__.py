"""Pseudo-labels as data: how good they are, measured against truth that training never sees."""
