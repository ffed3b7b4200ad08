"""Pictures in a page, as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import List, Sequence

from markupsafe import Markup

from ssod.plotting.markup import part


@dataclass
class Shot:
    """One picture.

    Attributes:
        caption: stands above it. uri: a data URI.
    """

    caption: str
    uri: str


@dataclass
class Card:
    """Pictures of one image, side by side.

    Attributes:
        name: of the image. lines: what to look at, below the pictures.
    """

    shots: List[Shot]
    name: str = ""
    lines: Sequence[str] = ()


def data_uri(content: bytes, kind: str = "jpeg") -> str:
    """The bytes of an image file of this kind as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def pictures(cards: Sequence[Card], small: bool = False) -> Markup:
    """The cards, as many beside each other as fit."""
    return part("pictures", cards, small)


def image(caption: str, uri: str, kind: str = "") -> Markup:
    """One picture with a caption, of a class of the style sheet."""
    return part("image", caption, uri, kind)
