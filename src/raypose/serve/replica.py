"""The class that Ray Serve runs: a model, its lanes and its HTTP interface in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from raypose.config.load import check_as
from raypose.config.s3_url import hide_secrets
from raypose.config.serve_schema import ModelsConfig, ServeConfig
from raypose.errors import ConfigError
from raypose.serve.http import create_app
from raypose.serve.loading import comparing
from raypose.serve.metrics import ServeMetrics
from raypose.serve.models import Library, Wanted
from raypose.serve.service import Service

_CANARY_S = 30.0
"""How often a canary that was missing is looked for, where nothing else is followed."""


class PoseReplica:
    """Belongs to the event loop that it is made in.

    Ray Serve makes it with `config`, then calls `reconfigure` with `user_config`, at once and after each change.
    """

    def __init__(self, config: ServeConfig, replica: str | None = None) -> None:
        name = replica or _replica_name()
        self._config = config
        self.service = Service(config, Library(config.compute, comparing(config)), ServeMetrics(name))
        self._following: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.service)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load what is wanted, then let it answer. What cannot be served changes nothing and is told in /v1/models.

        Raising would make Serve take the replica for broken, and replace it by one that has no model at all.
        """
        try:
            wanted = wanted_of(user_config)
        except ConfigError as error:
            if not self.service.models():
                raise
            await self.service.refuse("user_config", error)
            return
        if not await self.service.change(wanted):
            return
        if self._following is not None:
            self._following.cancel()
        self._following = asyncio.create_task(self._follow(wanted.follow_s))

    async def check_health(self) -> None:
        """Ray Serve replaces a replica in which this raises several times in a row."""
        self.service.require_sound()

    async def _follow(self, every_s: float | None) -> None:
        """As long as something may come: newer checkpoints, or a canary that was missing at the start."""
        while every_s is not None or self.service.library.lacks_canary:
            await asyncio.sleep(every_s or _CANARY_S)
            await self.service.follow()


def user_config_of(config: ServeConfig) -> dict[str, Any]:
    """The part of a configuration that may change while the service runs."""
    return config.model_dump(mode="json", include=set(ModelsConfig.model_fields))


def wanted_of(user_config: Mapping[str, Any]) -> Wanted:
    """Inverse of `user_config_of`; ConfigError, in one line, for what is not of it or does not fit."""
    try:
        config = check_as(ModelsConfig, user_config, "user_config")
    except ConfigError as error:
        mistakes = hide_secrets("; ".join(error.problems))[:1000]
        raise ConfigError(f"{mistakes}; correct it in serveConfigV2") from error
    return Wanted(config.model, config.which, config.follow_s, config.canary)


def _replica_name() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)
