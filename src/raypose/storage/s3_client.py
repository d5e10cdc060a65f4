"""A boto3 client for each process, and the patience that every request has with its server."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from raypose.config.s3_url import S3Location, hide_secrets
from raypose.errors import StorageError, StorageUnavailableError
from raypose.storage.s3_errors import S3_ERRORS, explain, is_transient

CONNECTIONS = 64
"""Connections kept open to a server: loader threads and the parts of a transfer share them."""
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 20.0
_QUICK_RETRIES = 2
"""Made by botocore within a second or two, so that one part of a transfer that fails does not repeat the whole."""
_LONGEST_PAUSE_S = 5.0
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

_LOG = logging.getLogger("raypose.storage")
_Result = TypeVar("_Result")


class S3Connection:
    """The way to one server. Pickles as its location: no client, socket or credential goes with it."""

    def __init__(self, location: S3Location) -> None:
        self._location = location
        self._made: tuple[int, Any] | None = None

    def __reduce__(self) -> tuple[type[S3Connection], tuple[S3Location]]:
        return S3Connection, (self._location,)

    @property
    def client(self) -> Any:
        """This process's client. A fork must not share its parent's sockets, so it makes one of its own.

        Two threads that are first at once make two clients, of which one stays: harmless, and no lock to fork with.
        """
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._made = (os.getpid(), _make_client(self._location))
        return made[1]

    def request(self, doing: str, action: Callable[[Any], _Result]) -> _Result:
        """`action(client)`, tried again while the server is away or busy; StorageError says what `doing` met.

        Nothing is begun after the deadline; what was begun before ends by its own timeouts.
        """
        deadline = time.monotonic() + self._location.deadline_s
        pause_s = 0.25
        warned = False
        while True:
            try:
                return action(self.client)
            except S3_ERRORS as error:
                found = explain(error, self._endpoint())
                if not is_transient(error):
                    raise StorageError(f"{doing}: {found}") from error
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    patience = f"tried for {self._location.deadline_s:g} s"
                    raise StorageUnavailableError(f"{doing}: {found} ({patience})") from error
                if not warned:
                    _LOG.warning("%s: %s; trying again for %.0f s", doing, found, left_s)
                    warned = True
            # Jitter, so that the workers of a cluster do not come back all at once.
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _endpoint(self) -> str:
        if self._made is None:
            return self._location.endpoint_url or "the server"
        return hide_secrets(str(self._made[1].meta.endpoint_url))  # it may come from the environment


def _make_client(location: S3Location) -> Any:
    try:
        settings = botocore.session.Session(profile=location.profile)
        session = boto3.Session(botocore_session=settings)
        client = _client_of(session, location, {})
        adaptations = _adaptations(settings.get_scoped_config(), client.meta.endpoint_url, location.path_style)
        return _client_of(session, location, adaptations) if adaptations else client
    except ProfileNotFound as error:
        raise StorageError(
            f"{location.url}: ~/.aws has no profile {location.profile!r}; name one that it has"
        ) from error
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint or region that is none
        reason = hide_secrets(" ".join(str(error).split()))
        raise StorageError(f"{location.url}: {reason}; check the AWS settings") from error


def _client_of(session: boto3.Session, location: S3Location, adaptations: dict[str, Any]) -> Any:
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 1 + _QUICK_RETRIES},
        max_pool_connections=CONNECTIONS,
        signature_version=UNSIGNED if location.anonymous else None,
        **adaptations,
    )
    return session.client("s3", endpoint_url=location.endpoint_url, region_name=location.region, config=config)


def _adaptations(own: Mapping[str, Any], endpoint: str, path_style: bool | None) -> dict[str, Any]:
    """What a client of this endpoint needs that the user's `own` AWS settings leave open.

    Servers other than Amazon's are seldom reachable at bucket.host, and many answer 411 to the checksums that boto3
    appends to a stream by default.
    """
    is_amazon = (urlsplit(endpoint).hostname or "").endswith(_AMAZON)
    adaptations: dict[str, Any] = {}
    if path_style is not None:
        adaptations["s3"] = {"addressing_style": "path" if path_style else "virtual"}
    elif not is_amazon and "addressing_style" not in (own.get("s3") or {}):
        adaptations["s3"] = {"addressing_style": "path"}
    for setting in ("request_checksum_calculation", "response_checksum_validation"):
        if not is_amazon and setting not in own and f"AWS_{setting.upper()}" not in os.environ:
            adaptations[setting] = "when_required"
    return adaptations
