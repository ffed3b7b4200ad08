"""`ssod COMMAND ...`: finds the subcommand, runs it, and turns what goes wrong into one line.

Exit status: 0; 1 for an error that the line explains; 2 for a command line that cannot be read; 130
after Ctrl-C. The help imports neither PyTorch nor Detectron2.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
from importlib import import_module
from typing import List, Optional, Sequence

import ssod
from ssod.cli.commands import ALIASES, GROUPS, commands, find
from ssod.errors import UserError

_INTRODUCTION = """\
ssod {version}: train object detectors from a few labelled and many unlabelled images

usage: ssod COMMAND ...          `ssod COMMAND --help` explains a command
       ssod --version
"""
_EXAMPLES = """\
Your own images, some of them labelled, to a trained detector and a page about it:
  ssod start photos
  ssod train --config-file photos_ssod/config.yaml
  ssod report output/photos

Without images of your own, `ssod demo` shows it all in some minutes.
"""


def help_text() -> str:
    """What `ssod --help` prints."""
    width = max(len(command.name) for command in commands())
    parts = [_INTRODUCTION.format(version=ssod.__version__)]
    for title, group in GROUPS.items():
        lines = [f"  {command.name:<{width}}  {command.help}" for command in group]
        parts.append("\n".join([title, *lines, ""]))
    return "\n".join([*parts, _EXAMPLES])


def suggestion(name: str) -> str:
    """The nearest subcommand to a name that is none, for a message."""
    known = {command.name: command.name for command in commands()}
    known |= {command.module.rsplit(".", 1)[-1]: command.name for command in commands()}
    known |= ALIASES
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean `ssod {known[close[0]]}`?" if close else "`ssod --help` lists them."


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        known = _explain(error)
        if known is None:
            raise
        print(f"error: {' '.join(known.split())}", file=sys.stderr)
        return 1


def _run(words: List[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(help_text(), end="")
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        print(f"ssod {ssod.__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name == "help":
        return _run([*rest[:1], "--help"])
    command = find(name)
    if command is None:
        print(f"error: there is no command {name!r}: {suggestion(name)}", file=sys.stderr)
        return 2
    status = import_module(command.module).main(rest)
    return int(status) if isinstance(status, int) else 0


def _explain(error: Exception) -> Optional[str]:
    """One line about an error that a user can put right; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    try:
        from ssod.utils.failures import as_user_error
    except ImportError:  # PyTorch itself is missing
        from ssod.missing import explain_import

        return explain_import(error)
    known = as_user_error(error)
    return None if known is None else str(known)
