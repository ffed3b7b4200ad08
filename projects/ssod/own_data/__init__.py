"""A user's own folder of images: what lies in it, splits of it, and a config that trains on it."""
