"""Brings files from outside of docs/ into the site, so that the pages' links work there as they do
in the repository.

Pages: README.md (as overview.md), CHANGELOG.md, CONTRIBUTING.md, datasets/README.md. Other files
that a page links to, such as configs, are copied as they are.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any, Dict

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
# In the repository -> in the site.
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "datasets/README.md": "datasets/README.md",
}
_SOURCES = {site: repository for repository, site in PAGES.items()}
_LINK = re.compile(r"(\]\(|<img src=\")([^)#\"\s]+)")


def in_repository(src_uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return _SOURCES.get(src_uri, posixpath.join(DOCS, src_uri))


def in_site(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return PAGES.get(path, posixpath.relpath(path, DOCS) if path.startswith(f"{DOCS}/") else path)


def links(text: str, src_uri: str) -> Dict[str, str]:
    """The relative links of a page to files: as written -> path in the repository."""
    folder = posixpath.dirname(in_repository(src_uri))
    found = {}
    for _, target in _LINK.findall(text):
        path = posixpath.normpath(posixpath.join(folder, target))
        if "://" not in target and (ROOT / path).is_file():
            found[target] = path
    return found


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and what all pages link to."""
    for path, site in PAGES.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / path)))
    for page in list(files.documentation_pages()):
        text = Path(page.abs_src_path).read_text(encoding="utf-8")
        for path in links(text, page.src_uri).values():
            if files.get_file_from_path(in_site(path)) is None:
                files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns the links of the repository into those of the site."""
    here = page.file.src_uri
    targets = links(markdown, here)
    folder = posixpath.dirname(here) or "."

    def moved(match: "re.Match[str]") -> str:
        path = targets.get(match.group(2))
        if path is None:
            return match.group(0)
        return match.group(1) + os.path.relpath(in_site(path), folder).replace(os.sep, "/")

    return _LINK.sub(moved, markdown)
