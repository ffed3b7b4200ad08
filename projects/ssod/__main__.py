"""python -m ssod COMMAND ...: the same as the command `ssod`."""

import sys

from ssod.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
