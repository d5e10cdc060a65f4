"""The body of a request, read as far as it is allowed to go."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from raypose.serve.problem import Problem
from raypose.serve.service import Service


async def read_body(request: Request, service: Service) -> bytes:
    """The whole body, refused once it is too large or too slow, and before it is read where there is no room."""
    limits = service.config.limits
    with service.admitted(1):
        pass
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.request_bytes:
        raise _too_large(limits.request_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.request_bytes:
                    raise _too_large(limits.request_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem("slow_body", f"the body did not arrive within {limits.body_s:g} s") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem("request_too_large", f"the body has more than {limit:,} bytes")
