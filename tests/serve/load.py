"""Clients that keep a service busy while a test does something to it."""

from __future__ import annotations

import threading
import time
from collections import Counter

from raypose.serve.client import Answer, Client, ServiceError
from tests.served_run import jpeg


class Load:
    """Clients that ask for one image all the time; `outcomes` counts versions of answers and codes of refusals."""

    def __init__(self, url: str, clients: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url, self._end = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def keep(self, answer: Answer) -> None:
        """Count one answer."""
        self.outcomes[answer.model_version] += 1

    def refused(self, error: ServiceError) -> None:
        """Count one refusal."""
        self.outcomes[error.code] += 1

    def _ask(self) -> None:
        content = jpeg()
        with Client(self._url, retries=0, timeout_s=60) as client:
            while not self._end.is_set():
                try:
                    self.keep(client.predict(content))
                except ServiceError as error:
                    self.refused(error)
                    time.sleep(0.05)
