"""Ports that nobody listens on, for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the ports that Linux hands out by itself (32768 and up), above those of Ray's workers (10002 to 19999): between
# the finding of a port and its use, nobody else comes across it.
_PORTS = range(20000, 32768)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones, for they are all held until the last is found."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        # Not the seeded generator of the tests: two processes of one suite would try the same ports.
        for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                break
            with contextlib.suppress(OSError):  # somebody listens there
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    assert len(found) == count, f"only {len(found)} of {count} ports from {_PORTS.start} on are free"
    return found
