"""Detectron2's detector, driven step by step."""
