"""Commands: `python -m ssod.tools.<name>`, each with `--help`."""

from ssod.missing import explain_failed_imports

explain_failed_imports()
