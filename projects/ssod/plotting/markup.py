"""HTML from the templates of this folder. Whatever a template is given is escaped."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@lru_cache(maxsize=None)
def environment(package: str) -> Environment:
    """The templates in the folder `templates` of a package. A missing name is an error."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache(maxsize=None)
def _parts() -> Any:
    return environment("ssod.plotting").get_template("parts.html").module


def part(name: str, *arguments: Any, **keywords: Any) -> Markup:
    """What a macro of parts.html writes."""
    return Markup(getattr(_parts(), name)(*arguments, **keywords).strip())
