"""Detectron2's two-stage detectors, step by step."""
