"""The command `ssod`: one line in `commands.py` for each subcommand."""
