"""A TCP proxy in front of an object store, whose line a test can cut, hold up and restore."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_CHUNK_BYTES = 64 * 1024


class Line:
    """The way to a server. `endpoint` stays the same while the line is cut."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._bytes_left: dict[bool, int] = {}  # by whether they are those of an answer
        self._silent = False
        self.connections = 0
        self.broke = threading.Event()
        """Set when a connection was broken at the byte that a test asked for."""
        self._port = self._listen(0)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Refuse connections and break those that are open."""
        if self._listener is not None:
            # Wakes up the thread in accept, which closing alone does not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        self._listen(self._port)

    def cut_answers_after(self, size_bytes: int) -> None:
        """Break the connection that carries the answer beyond this many bytes from now on, once."""
        self._break_after(size_bytes, is_answer=True)

    def cut_requests_after(self, size_bytes: int) -> None:
        """Break the connection that carries the request beyond this many bytes from now on, once."""
        self._break_after(size_bytes, is_answer=False)

    def fall_silent(self) -> None:
        """Accept connections and never answer on them."""
        self._silent = True

    def _break_after(self, size_bytes: int, *, is_answer: bool) -> None:
        with self._lock:
            self.broke.clear()
            self._bytes_left[is_answer] = size_bytes

    def _listen(self, port: int) -> int:
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return int(self._listener.getsockname()[1])

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = listener.accept()
                self.connections += 1
                if self._silent:
                    self._open.add(near)
                    continue
                far = socket.create_connection(self._upstream)
                with self._lock:
                    self._open |= {near, far}
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(_CHUNK_BYTES):
                target.sendall(self._allowed(content, is_answer))
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
        with self._lock:
            self._open.discard(source)

    def _allowed(self, content: bytes, is_answer: bool) -> bytes:
        with self._lock:
            left = self._bytes_left.pop(is_answer, None)
            if left is None:
                return content
            if left >= len(content):
                self._bytes_left[is_answer] = left - len(content)
                return content
            self.broke.set()
        raise ConnectionResetError("as the test asked")


@contextlib.contextmanager
def line_to(upstream: str) -> Iterator[Line]:
    """A line that is cut for good at the end of the block."""
    line = Line(upstream)
    try:
        yield line
    finally:
        line.cut()
