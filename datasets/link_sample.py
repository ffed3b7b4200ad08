"""Links a random share of a folder's images into a new folder: python datasets/link_sample.py SOURCE TARGET --percent 20

For unlabelled sets that are part of a larger pool, such as a fifth of ImageNet. The draw depends on the seed and on the images'
paths below SOURCE alone, and smaller shares are subsets of larger ones. TARGET holds symbolic links and keeps the folders;
declare it as {FORMAT: folder, IMAGES: TARGET}.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence


def draw(paths: Sequence[str], percent: float, seed: int) -> List[str]:
    """The chosen paths, sorted; their number is rounded down."""

    def key(path: str) -> str:
        return hashlib.sha256(f"{seed}/{path}".encode()).hexdigest()

    return sorted(sorted(paths, key=key)[: int(len(paths) * percent / 100 + 1e-9)])


def link_sample(source: Path, target: Path, percent: float, seed: int) -> int:
    """Makes the links; returns how many. A link that is already there and right stays.

    Raises:
        UserError: SOURCE has no images, or TARGET holds files that this draw would not put there.
    """
    from ssod.data.folder import FolderSet
    from ssod.errors import UserError

    chosen = draw(FolderSet("SOURCE", str(source)).relative_paths(), percent, seed)
    wanted = {path: (source / path).resolve() for path in chosen}
    present = {
        path.relative_to(target).as_posix(): path
        for path in target.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    for name, path in present.items():
        if not path.is_symlink() or name not in wanted or path.resolve() != wanted[name]:
            raise UserError(
                f"{path} does not belong to this draw: remove {target} or name another."
            )
    for name, origin in wanted.items():
        if name not in present:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(origin, target / name)
    return len(wanted)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder, read recursively")
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder of links to make")
    parser.add_argument("--percent", type=float, required=True, help="of the images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not 0 < args.percent <= 100:
        parser.error("--percent must be above 0 and at most 100")
    from ssod.errors import UserError

    try:
        count = link_sample(args.source, args.target, args.percent, args.seed)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{args.target}: {count} images")


if __name__ == "__main__":
    main()
