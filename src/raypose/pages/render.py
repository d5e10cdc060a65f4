"""Templates to one page of text, its styles and pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from raypose.errors import DataError


def render_page(
    package: str,
    template: str,
    *,
    eyebrow: str,
    title: str,
    subtitle: str = "",
    facts: Mapping[str, str] | None = None,
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """A template of `package`, which extends `page.html.j2`. `facts` stand below the title, in order."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("raypose.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(
        eyebrow=eyebrow, title=title, subtitle=subtitle, facts=facts or {}, **values
    )


def data_uri(image: bytes, caption: str) -> str:
    """A PNG, JPEG or SVG file as the address of itself; raises DataError that names `caption` for anything else.

    What an SVG has of scripts and addresses is dead inside an <img>.
    """
    if image.startswith(b"\x89PNG"):
        kind = "png"
    elif image.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif image.lstrip().startswith((b"<svg", b"<?xml")):
        kind = "svg+xml"
    else:
        raise DataError(f"picture {caption!r}: starts with {image[:4]!r}, expected PNG, JPEG or SVG bytes")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
