"""Commands: `ssod NAME`, or `python -m ssod.tools.<module>`, each with `--help`.

`ssod.cli.commands` has the names.
"""

from ssod.missing import explain_failed_imports

explain_failed_imports()
