"""What stands around every request: who may ask, the access log, metrics, and an answer whatever goes wrong."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raypose.serve.docs import DOCS_PATHS
from raypose.serve.problem import Problem, log_failure

OPEN_PATHS = frozenset(
    {
        "/",
        "/page.css",
        "/page.js",
        "/healthz",
        "/readyz",
        "/v2/health/live",
        "/v2/health/ready",
        "/openapi.json",
    }
    | DOCS_PATHS
)
"""What needs no key: the page, its description, and what load balancers ask."""
_PATHS = OPEN_PATHS | {"/v1/predict", "/v1/predict/stream", "/v1/models", "/v2", "/metrics"}
"""Those that metrics name; strangers ask for any number of others."""
_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""How a key is sent, as OpenAPI has it."""
_SECURITY_HEADERS = (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"))


class Keys:
    """The API keys that are let in, known by their SHA-256 alone."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = [value.removeprefix("sha256:") for value in hashes]

    def check(self, headers: Headers) -> None:
        """Problem unless the request has one of the keys, or none is needed."""
        if not self._hashes:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        # Either may be somebody else's: a gateway puts a token of its own into Authorization.
        given = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        digests = [hashlib.sha256(key.encode("latin-1", "replace")).hexdigest() for key in given]
        # All of them, so that the time says nothing about which one was nearly right.
        matching = [hmac.compare_digest(digest, known) for digest in digests for known in self._hashes]
        if not any(matching):
            raise Problem(
                "unauthorized",
                "send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                headers={"WWW-Authenticate": 'Bearer realm="raypose"'},
            )


def describe_keys(app: FastAPI) -> None:
    """Say in the description of the interface what needs a key and how it is sent, so that `/docs` asks for one."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        description = describe()
        description.setdefault("components", {})["securitySchemes"] = _KEY_SCHEMES
        for path, operations in description["paths"].items():
            for operation in operations.values() if path not in OPEN_PATHS else ():
                operation["security"] = [{name: []} for name in _KEY_SCHEMES]
        return description

    app.openapi = openapi  # type: ignore[method-assign]


class Gate:
    """Pure ASGI, because it runs for every request. `record` hears of path, code and seconds of each one."""

    def __init__(self, app: ASGIApp, *, keys: Keys, record: Callable[[str, str, float], None], log: bool) -> None:
        self._app = app
        self._keys = keys
        self._record = record
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")[:100] or secrets.token_hex(8)
        state: dict[str, Any] = scope.setdefault("state", {})
        sent: dict[str, int] = {}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                _sign(MutableHeaders(scope=message), request_id, headers.get("traceparent"))
            await send(message)

        try:
            if scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
                self._keys.check(headers)
            await self._app(scope, receive, answer)
        except Problem as problem:
            state["code"] = problem.code
            await problem_response(problem, scope["path"])(scope, receive, answer)
        except ClientDisconnect:  # no fault of ours, and nobody is there to be told
            state["code"] = "client_gone"
            if "status" in sent:
                raise  # or the server would take the answer for whole
        except Exception as error:
            state["code"] = "internal"
            log_failure({"error": type(error).__name__, "detail": str(error), "id": request_id})
            if "status" in sent:
                raise
            failed = Problem("internal", "the service failed; its log says more")
            await problem_response(failed, scope["path"])(scope, receive, answer)
        finally:
            self._finish(scope, headers, request_id, sent.get("status", 499), time.perf_counter() - started_s)

    def _finish(self, scope: Scope, headers: Headers, request_id: str, status: int, seconds: float) -> None:
        code = scope["state"].get("code") or ("ok" if status < 400 else "client_gone" if status == 499 else str(status))
        route = scope["state"].get("route", scope["path"] if scope["path"] in _PATHS else "other")
        self._record(route, code, seconds)
        if self._log and route not in ("/healthz", "/readyz"):
            line = {
                "time": round(time.time(), 3),
                "id": request_id,
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "code": code,
                "ms": round(seconds * 1000, 2),
                "bytes": headers.get("content-length", ""),
                "images": scope["state"].get("images", 0),
                "version": scope["state"].get("version", ""),
                "trace": headers.get("traceparent", "")[:100],
            }
            print(json.dumps({key: value for key, value in line.items() if value != ""}), flush=True)  # noqa: T201


def problem_response(problem: Problem, path: str) -> JSONResponse:
    """As every error is told: `{"error": {"code", "message"}}`; below /v2 a text, as that protocol wants it."""
    error = problem.message if path.startswith("/v2") else problem.to_dict()
    return JSONResponse({"error": error}, problem.status, {**problem.headers, "X-Error-Code": problem.code})


def _sign(headers: MutableHeaders, request_id: str, trace: str | None) -> None:
    headers["X-Request-Id"] = request_id
    if trace is not None:
        headers["traceparent"] = trace
    for name, value in _SECURITY_HEADERS:
        headers[name] = value
