"""What Ray Serve tells a replica: only a replica that has never served may fail of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from raypose.errors import ConfigError, RayposeError
from raypose.serve.models import Library
from raypose.serve.replica import PoseReplica, user_config_of
from tests.serve_fakes import Shelves, config_for, run
from tests.unit.test_serve_http import waiting


@asynccontextmanager
async def replica_of(shelves: Shelves) -> AsyncIterator[PoseReplica]:
    replica = PoseReplica(config_for("a"), "r0")
    replica.service.library = Library(replica.service.config.compute, shelves.open, shelves.locate)
    try:
        yield replica
    finally:
        if replica._following is not None:
            replica._following.cancel()
        replica.service.close()


def asked(place: str, **more: Any) -> dict[str, Any]:
    return user_config_of(config_for(place)) | more


def test_words_that_mean_nothing_are_refused_with_their_place_and_change_nothing() -> None:
    async def go() -> list[dict[str, str]]:
        shelves = Shelves()
        shelves.add("a")
        async with replica_of(shelves) as replica:
            with pytest.raises(ConfigError, match="which"):
                await replica.reconfigure(asked("a", which="bset"))
            await replica.reconfigure(asked("a"))
            for _ in range(2):
                await replica.reconfigure(asked("a", which="bset"))
            told: list[dict[str, str]] = replica.service.library.to_dict()["refused"]
            assert [model.version for _, model in replica.service.models()] == ["a-v"]
            assert 'model_changes_total{outcome="refused",replica="r0"} 1.0' in (
                replica.service.metrics.exposition().decode()
            )
            await replica.reconfigure(asked("a"))
            assert not replica.service.library.refusals
            return told

    (refused,) = run(go())
    assert refused["model"] == "user_config"
    assert (
        refused["reason"] == "user_config: which: must be 'best' or 'last', found 'bset'; correct it in serveConfigV2"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"folow_s": 5.0}, "user_config: folow_s: unknown key; did you mean follow_s?"),
        ({"limits": {"images": 2}}, "user_config: limits: unknown key; known here: model, which, follow_s, canary"),
        ({"canary": {"model": "b", "shar": 0.5}}, "user_config: canary.shar: unknown key; did you mean canary.share?"),
    ],
)
def test_a_key_that_cannot_change_in_place_is_refused_by_name_and_what_serves_goes_on(
    more: dict[str, Any], told: str
) -> None:
    async def go() -> list[dict[str, str]]:
        shelves = Shelves()
        shelves.add("a")
        shelves.add("b")
        async with replica_of(shelves) as replica:
            with pytest.raises(ConfigError):  # one that begins says so at once
                await replica.reconfigure(asked("a", **more))
            await replica.reconfigure(asked("a"))
            await replica.reconfigure(asked("b", **more))
            assert [model.version for _, model in replica.service.models()] == ["a-v"]
            refused: list[dict[str, str]] = replica.service.library.to_dict()["refused"]
            return refused

    assert run(go()) == [{"model": "user_config", "reason": f"{told}; correct it in serveConfigV2"}]


def test_a_model_that_does_not_fit_into_memory_leaves_the_replica_and_what_it_follows_alone() -> None:
    async def go() -> list[str]:
        shelves = Shelves()
        shelves.add("a")
        async with replica_of(shelves) as replica:
            await replica.reconfigure(asked("a", follow_s=0.01))
            shelves.places["huge"] = torch.OutOfMemoryError("CUDA out of memory")
            await replica.reconfigure(asked("huge"))
            shelves.places["a"], shelves.fingerprints["a"] = OSError(28, "No space left on device"), "2"
            await waiting(lambda: "a" in replica.service.library.refusals)
            shelves.add("a", fingerprint="3")
            await waiting(lambda: replica.service.models()[0][1].version == "a-v3")
            return list(replica.service.library.refusals)

    assert run(go()) == ["huge"]


def test_a_replica_that_starts_while_its_canary_is_gone_serves_the_model_and_takes_the_canary_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raypose.serve.replica._CANARY_S", 0.01)

    async def go() -> list[str]:
        shelves = Shelves()
        shelves.add("a")
        async with replica_of(shelves) as replica:
            await replica.reconfigure(asked("a", canary={"model": "b", "share": 0.5}))
            replica.service.require_ready()
            assert [model.version for _, model in replica.service.models()] == ["a-v"]
            assert [refusal["model"] for refusal in replica.service.library.to_dict()["refused"]] == ["b"]
            shelves.add("b")
            await waiting(lambda: len(replica.service.models()) == 2)
            assert replica._following is not None
            await replica._following  # nothing more is to come
            return [model.version for _, model in replica.service.models()]

    assert run(go()) == ["a-v", "b-v"]
    (line,) = capsys.readouterr().err.splitlines()  # once, however often it was tried
    assert json.loads(line) == {"refused": "b", "detail": "b: no such run"}


def test_a_replica_whose_model_fails_whatever_it_is_given_fails_the_health_check() -> None:
    async def go() -> None:
        shelves = Shelves()
        shelves.add("a")
        async with replica_of(shelves) as replica:
            await replica.reconfigure(asked("a"))
            await replica.check_health()
            (_, model), *_ = replica.service.models()
            model.fault = "3 calls in a row failed"
            with pytest.raises(RayposeError, match="a-v, fake: 3 calls in a row failed"):
                await replica.check_health()

    run(go())
