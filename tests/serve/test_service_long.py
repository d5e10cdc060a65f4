"""What takes minutes of a real service: hundreds of changed models, a killed replica, thousands of odd requests."""

from __future__ import annotations

import os
import signal
import time
from itertools import cycle

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from raypose.serve.client import Answer, ImageAnswer, ServiceError
from tests.serve.conftest import Served
from tests.serve.load import Load
from tests.served_run import add_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

RELOADS = 200
CLIENTS = 3
CASES = 5000


class Witnesses(Load):
    """A load that keeps what each version answered, and every refusal."""

    def __init__(self, url: str) -> None:
        super().__init__(url, CLIENTS)
        self.people: dict[str, set[tuple[tuple[int, ...], ...]]] = {}
        self.errors: list[ServiceError] = []

    def keep(self, answer: Answer) -> None:
        super().keep(answer)
        self.people.setdefault(answer.model_version, set()).add(_rounded(answer.images[0]))

    def refused(self, error: ServiceError) -> None:
        self.errors.append(error)


def _rounded(image: ImageAnswer) -> tuple[tuple[int, ...], ...]:
    """Boxes to the pixel: sums of a batch of three round otherwise than those of one."""
    return tuple(sorted(tuple(round(value) for value in person.box_xyxy) for person in image.people))


def test_two_hundred_models_come_and_go_under_load(served: Served) -> None:
    second = add_checkpoint(served.run, 2, seed=1, pose_ap=0.05)
    places = {"step-00000002": second, "step-00000001": served.run}
    replicas = served.replicas()
    with Witnesses(served.url) as witnesses:
        for number in range(RELOADS):
            start = list(places)[number % 2]
            served.configure(places[start])
            served.wait_for(start)
    assert witnesses.errors == []
    assert sorted(version.partition("-")[0] for version in witnesses.outcomes) == ["step", "step"]
    people = list(witnesses.people.values())
    assert all(len(boxes) <= 3 for boxes in people)  # to the pixel, but for what rounds both ways
    assert not people[0] & people[1]
    assert served.replicas() == replicas


def test_a_replica_that_is_killed_under_load_fails_only_what_it_held(served: Served) -> None:
    (before,) = served.replicas()
    with Witnesses(served.url) as witnesses:
        time.sleep(5)
        assert witnesses.errors == []
        os.kill(before, signal.SIGKILL)
        deadline_s = time.monotonic() + 240
        answered = sum(witnesses.outcomes.values()) + CLIENTS
        while served.replicas() in ([], [before]) or sum(witnesses.outcomes.values()) <= answered:
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        after = len(witnesses.errors)
        time.sleep(5)
    assert len(witnesses.errors) == after  # whole again
    assert {error.status for error in witnesses.errors} <= {0, 500, 502, 503}  # cut off, or refused by the proxy


def test_no_odd_request_is_answered_with_a_fault_of_the_server(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    faults: list[str] = []
    asked = 0
    rounds = cycle(operations)
    while asked < CASES:  # some have only one case
        operation = next(rounds)

        @settings(
            max_examples=CASES // len(operations) + 1,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: object) -> None:
            nonlocal asked
            asked += 1
            response = case.call(timeout=60)  # type: ignore[attr-defined]
            if response.status_code >= 500:
                faults.append(f"{response.status_code} {response.request.method} {response.request.url}")

        ask()
    print(f"{asked} cases")
    assert faults == []
