"""A user's own folder of images: an examination, splits, and a config that trains on it."""
