"""Adapters between the training step and detectors, one file or folder a family."""
