"""A client that goes away is no fault of the service, and is told from one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from raypose.serve.http import create_app
from tests.serve_fakes import Shelves, config_for, post_scope, run, serving
from tests.unit.test_serve_stream import film

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def codes_of(path: str, receive: Receive, send: Send, *overrides: str, breaks_off: bool) -> list[str]:
    """What one request is counted as, by a service that nothing else asks."""
    shelves = Shelves()
    shelves.add("a")
    async with serving(shelves, config_for("a", *overrides)) as (service, _):
        answer = create_app(service)(post_scope(path), receive, send)
        if breaks_off:
            with pytest.raises(ClientDisconnect):
                await answer
        else:
            await answer
        assert service.pending == 0
        return re.findall(r'requests_total\{code="(\w+)"', service.metrics.exposition().decode())


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/stream", "/v2/models/pose/infer"])
def test_a_client_that_goes_while_it_sends_is_counted_as_gone(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    messages = iter([{"type": "http.request", "body": b"\xff\xd8\xff", "more_body": True}])

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    assert run(codes_of(path, receive, send, breaks_off=False)) == ["client_gone"]
    assert sent == []
    assert capsys.readouterr().err == ""


def test_a_client_that_does_not_read_its_video_is_counted_as_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = iter([{"type": "http.request", "body": film(tmp_path), "more_body": False}])

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
        return message or {}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    seen = run(codes_of("/v1/predict/stream", receive, send, "limits.request_s=0.2", breaks_off=True))
    assert seen == ["client_gone"]
    assert capsys.readouterr().err == ""
