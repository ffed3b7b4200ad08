"""Dataset formats. Each has one file, and `register_format` adds it to `FORMATS`."""
