"""Dataset formats: one file each, entered into `FORMATS` by `register_format`."""
