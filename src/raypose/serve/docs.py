"""`/docs`: Swagger UI over the description of the interface. Its files come from a package, not from another server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

_KINDS = {
    "/docs/swagger-ui-bundle.js": "text/javascript",
    "/docs/swagger-ui.css": "text/css",
    "/docs/favicon.png": "image/png",
}
DOCS_PATHS = frozenset({"/docs", *_KINDS})


def add_docs(app: FastAPI) -> None:
    """Serve it."""
    folder = files("fastapi_offline") / "static"
    for path, kind in _KINDS.items():
        content = (folder / path.rpartition("/")[2]).read_bytes()
        app.add_api_route(path, _sender(content, kind), include_in_schema=False, response_class=Response)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        script, style, icon = _KINDS
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        )


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, headers={"Cache-Control": "max-age=86400"}, media_type=kind)

    return send
