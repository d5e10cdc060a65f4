"""An HTTP proxy in front of an object store that spoils answers: refused, slow, cut off, or with a bit flipped."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Fault(Enum):
    """What happens to one answer."""

    REFUSED = "5xx"
    SLOW = "slow"
    CUT = "cut off"
    FLIPPED = "bit flipped"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came in; `number` counts from 0."""

    number: int
    method: str
    path: str


Choice = Callable[[Request], Fault | None]

PAUSE_S = 0.1
"""Before a slow answer, and again in the middle of it."""
_REFUSALS = ((500, "InternalError"), (502, ""), (503, "SlowDown"), (504, ""))
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


def nothing(_: Request) -> Fault | None:
    """Answers pass as they are."""
    return None


def some_of_all(share: float, seed: int = 0) -> Choice:
    """This share of all requests is refused, slow or cut off, each as often as the others."""
    faults = (Fault.REFUSED, Fault.SLOW, Fault.CUT)

    def choose(request: Request) -> Fault | None:
        rng = random.Random(f"{seed} {request.number}")
        return rng.choice(faults) if rng.random() < share else None

    return choose


class FaultyProxy:
    """The way to a server. `choose` may be set at any time; `injected` counts what was done so far."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._lock = threading.Lock()
        self._requests = 0
        self.choose: Choice = nothing
        self.injected: Counter[Fault] = Counter()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> int:
        return self._requests

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def decide(self, method: str, path: str) -> tuple[Request, Fault | None]:
        with self._lock:
            request = Request(self._requests, method, path)
            self._requests += 1
            fault = self.choose(request)
            if fault is not None:
                self.injected[fault] += 1
        return request, fault

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        """The server's own answer. Raises OSError or HTTPException where there is none."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        with contextlib.closing(connection):
            # Host is part of what is signed, so it stays that of the proxy.
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
            return _Answer(response.status, kept, response.read())


@contextlib.contextmanager
def proxy_to(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy that is gone at the end of the block."""
    proxy = FaultyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


def _refusal(number: int) -> _Answer:
    """As a store says it, with a code, or a load balancer in front of it, without."""
    status, code = _REFUSALS[number % len(_REFUSALS)]
    body = f"<Error><Code>{code}</Code><Message>as the test asked</Message></Error>" if code else "<html>no</html>"
    return _Answer(status, [("Content-Type", "application/xml" if code else "text/html")], body.encode())


def _handler_of(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are written apart

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request, fault = proxy.decide(self.command, self.path)
            if fault is Fault.REFUSED:
                self.send(_refusal(request.number))
                return
            try:
                answer = proxy.forward(self.command, self.path, self.headers, body)
            except (OSError, http.client.HTTPException):
                self.close_connection = True  # as the server did
                return
            if fault is Fault.SLOW:
                time.sleep(PAUSE_S)
            if fault is Fault.FLIPPED:
                spoilt = bytearray(answer.body)
                spoilt[len(spoilt) // 2] ^= 0x10
                answer = _Answer(answer.status, answer.headers, bytes(spoilt))
            self.send(answer, fault)

        def send(self, answer: _Answer, fault: Fault | None = None) -> None:
            half = len(answer.body) // 2
            if fault is Fault.CUT:
                self.close_connection = True
                if half == 0:
                    return  # the request was done, and its answer is lost
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(answer.body[:half])
            if fault is Fault.CUT:
                return
            if fault is Fault.SLOW:
                time.sleep(PAUSE_S)
            self.wfile.write(answer.body[half:])

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

        def log_message(self, *_: object) -> None:
            """A line for each request would bury what tests have to say."""

    return Handler
