"""Commands: `python -m ssod.tools.<name>`, each with `--help`."""
