"""Lists the configs that come with ssod, with what each says about itself.

ssod configs                 all of them
ssod configs cards best      those whose name or description has both words

`ssod train --config-file NAME` takes them by these names from any folder. A config of your own
changes one by `_BASE_: "NAME"`. --where prints the path of each file in place of its description.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import List, Optional

from ssod.errors import UserError
from ssod.resources import config_names, packaged_config

# Lines of a header that say how a config is run, and not what it is.
_COMMANDS = ("python ", "ssod ", "--", "GPU-hours")


def describe(path: str) -> str:
    """The first line of a config's header that is no command; empty if there is none."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if text and not text.startswith(_COMMANDS):
            return text
    return ""


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod configs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="list only what has all words")
    parser.add_argument("--where", action="store_true", help="print paths")
    args = parser.parse_args(argv)
    # A whole name means one config, also where the descriptions of others mention it.
    names = [name for name in config_names() if args.words == [name]] or config_names()
    rows = [(name, packaged_config(name) or "") for name in names]
    found = []
    for name, path in rows:
        text = describe(path)
        if all(word.lower() in f"{name} {text}".lower() for word in args.words):
            found.append((name, path if args.where else text))
    if not found:
        raise UserError(f"No config has {' and '.join(args.words)}: leave a word out.")
    width = max(len(name) for name, _ in found)
    room = max(40, shutil.get_terminal_size((140, 24)).columns - width - 2)
    for name, text in found:
        shown = text if args.where or len(text) <= room else text[: room - 3] + "..."
        print(f"{name:<{width}}  {shown}".rstrip())


if __name__ == "__main__":
    from ssod.engine.setup import run_cli

    run_cli(main)
