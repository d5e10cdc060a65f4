"""The Python client against services that answer oddly: whatever happens comes as an error of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raypose.errors import ConfigError
from raypose.serve.client import Client, ServiceError

ANSWER = (
    b'{"model":{"name":"pose","version":"v1","role":"stable"},"skeleton":"2-0","timings_ms":{"total":1.0},'
    b'"images":[{"name":"image","width":4,"height":4,"people":[]}]}'
)
VIDEO = b'{"video":{"width":4,"height":4,"fps":25.0}}\n{"frame":0,"time_s":0.0,"version":"v1","people":[]}\n'


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> Iterator[str]:
    """The address of a server that `answer`s each request, which has a number."""
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(len(asked))
            answer(self, asked[-1])

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("wait", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
def test_one_that_is_told_to_wait_asks_again_in_whatever_words_it_is_told(wait: str) -> None:
    def busy_at_first(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            say(handler, 429, b"Too many", Retry_After=wait)
        else:
            say(handler, 200, ANSWER)

    with answering(busy_at_first) as url, Client(url) as client:
        assert client.predict(b"image").model_version == "v1"


def test_an_answer_in_the_words_of_a_proxy_is_an_error_with_its_status() -> None:
    with answering(lambda handler, _: say(handler, 502, b"Bad gateway")) as url, Client(url) as client:
        with pytest.raises(ServiceError, match="Bad gateway") as caught:
            client.predict(b"image")
        assert (caught.value.status, caught.value.code) == (502, "unknown")


def begin_video(handler: BaseHTTPRequestHandler, *chunks: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    handler.wfile.flush()


def test_a_video_that_stalls_or_breaks_off_is_an_error_of_the_service() -> None:
    end = threading.Event()

    def stall(handler: BaseHTTPRequestHandler, _: int) -> None:
        begin_video(handler, VIDEO)
        end.wait(30)
        handler.close_connection = True

    def cut_off(handler: BaseHTTPRequestHandler, _: int) -> None:
        begin_video(handler, VIDEO, b'{"frame":1,"time_')
        handler.close_connection = True

    def between_lines(handler: BaseHTTPRequestHandler, _: int) -> None:
        begin_video(handler, VIDEO)
        handler.close_connection = True

    for answer in (stall, cut_off, between_lines):
        with answering(answer) as url, Client(url, timeout_s=0.5) as client:
            frames = client.predict_video(b"video")
            assert next(frames).number == 0
            with pytest.raises(ServiceError) as caught:
                next(frames)
            assert (caught.value.status, caught.value.code) == (0, "unreachable")
            end.set()


@pytest.mark.parametrize("key", ["secret\n", "geheimer Schlüssel"])
def test_a_key_that_no_header_carries_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Client("http://127.0.0.1:1", api_key=key)
    assert key.strip() not in str(caught.value)
