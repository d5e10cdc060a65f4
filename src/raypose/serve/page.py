"""The web page: three files, sent as they are, that ask nobody but this service for anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

_KINDS = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # Camera and pictures of the user stay in the browser; nothing is loaded from, or sent to, anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve it at `/`."""
    folder = files("raypose.serve") / "web"
    for path, (name, kind) in _KINDS.items():
        content = (folder / name).read_bytes()
        app.add_api_route(path, _sender(content, kind), include_in_schema=False, response_class=Response)


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, headers=_HEADERS, media_type=f"{kind}; charset=utf-8")

    return send
