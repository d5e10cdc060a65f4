"""The end of the service that the other tests of this folder ask; so this file comes last by its name."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from raypose.serve.client import Client
from tests.serve.conftest import Served
from tests.served_run import jpeg

pytestmark = pytest.mark.ray


def test_what_was_accepted_before_the_end_is_answered(served: Served) -> None:
    answers: list[int] = []

    def ask() -> None:
        with Client(served.url, retries=0) as client:
            answers.append(len(client.predict(*[jpeg()] * 16).images))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)  # for the requests to arrive
    served.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert answers == [16, 16]
    assert served.process.wait(120) == 0
