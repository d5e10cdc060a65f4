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
    images, answers = [jpeg()] * 16, list[int]()

    def ask() -> None:
        with Client(served.url, retries=0) as client:
            answers.append(len(client.predict(*images).images))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + 60
    while 16 * len(answers) + served.pending() < 32:  # in this order, or what is answered now would count twice
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    served.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert answers == [16, 16]
    assert served.process.wait(120) == 0
