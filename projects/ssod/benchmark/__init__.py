"""Timing of mutual-learning steps; the command is `ssod.tools.benchmark`."""
