"""The two-stage filter and its image-level classifier."""
