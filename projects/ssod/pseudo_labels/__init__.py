"""Offline labelling: predictions, thresholds, agreement of several models, and files of labels."""
