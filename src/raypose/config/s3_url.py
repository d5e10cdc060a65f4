"""What an `s3://` URL says. A URL stands for itself: in a YAML file, in a Ray worker and after a resume.

Options are in its query; credentials never are, because URLs are written to configurations, logs and errors.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from raypose.errors import ConfigError

SCHEME = "s3://"
_FORM = "expected s3://bucket/prefix?option=value"
_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{2,254}")
_NO_CREDENTIALS = (
    "credentials do not belong into a URL, which is written to files and logs; set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws with ?profile="
)
_SECRET_WORD = r"key|secret|token|password|credential|signature"
_SECRET_NAME = re.compile(_SECRET_WORD, re.IGNORECASE)
_SECRETS = (
    # What stands between :// and @, as it is or percent-encoded; a secret key may hold slashes.
    (re.compile(r"((?::|%3A)(?://|%2F%2F))[^/?&@:\s]*(?:(?::|%3A)[^?&@\s]*?)?(@|%40)", re.IGNORECASE), r"\1…\2"),
    (re.compile(rf"([?&][^=&\s]*(?:{_SECRET_WORD})[^=&\s]*)=[^&\s'\"]*", re.IGNORECASE), r"\1=…"),
)
_SEPARATORS = str.maketrans({"%": "%25", "?": "%3F"})
"""Only what would be taken for something else in front of the query: names stay as people wrote them."""


@dataclass(frozen=True, slots=True)
class S3Location:
    """A part of a bucket and how to reach it. `prefix` has no slash at either end and may be empty.

    None means that the standard chain of AWS settings decides. `path_style` None is path style wherever the endpoint
    is not Amazon's. `deadline_s` is how long one operation tries again before it fails.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    anonymous: bool = False
    profile: str | None = None
    deadline_s: float = 120.0

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL; raises ConfigError, without its secrets, where it has any or is not one."""
        refuse_secrets(url)
        if is_remote(url) and not url.startswith(SCHEME):
            raise ConfigError(f"{url}: this kind of storage is not supported; give a local folder or an s3:// URL")
        path, _, query = url.removeprefix(SCHEME).partition("?")
        bucket, _, prefix = path.partition("/")
        if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"{SCHEME}{path}: {bucket!r} is no name of a bucket; {_FORM}")
        try:
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise ConfigError(f"{url}: the part after '?' is not option=value&option=value; {_FORM}") from error
        prefix = unquote(prefix).strip("/")
        if ".." in prefix.split("/"):
            raise ConfigError(f"{url}: '..' climbs out of its place; write the prefix that is meant")
        return cls(bucket, prefix, **_options(SCHEME + path, given))

    @property
    def url(self) -> str:
        """What `parse` reads back to an equal location."""
        place = SCHEME + "/".join(part for part in (self.bucket, self.prefix.translate(_SEPARATORS)) if part)
        values = {name: getattr(self, name) for name in _READERS}
        given = {name: _written(value) for name, value in values.items() if value != getattr(_DEFAULTS, name)}
        return f"{place}?{urlencode(given, safe=':/')}" if given else place

    def below(self, key: str) -> Self:
        """The location of a key, reached the same way."""
        return replace(self, prefix="/".join(part for part in (self.prefix, key.strip("/")) if part))


def is_remote(place: str) -> bool:
    """Whether a user's words name an object store rather than a local path."""
    return "://" in place


def refuse_secrets(url: str) -> None:
    """Raise ConfigError for a URL with credentials in it, without repeating them."""
    hidden = hide_secrets(url)
    if hidden != url:
        raise ConfigError(f"{hidden}: {_NO_CREDENTIALS}")


def hide_secrets(text: str) -> str:
    """The same text without what stands at the place of a credential in a URL."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _options(place: str, given: list[tuple[str, str]]) -> Mapping[str, Any]:
    options: dict[str, Any] = {}
    for name, value in given:
        if name not in _READERS:
            near = difflib.get_close_matches(name, _READERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(_READERS)}"
            raise ConfigError(f"{place}: unknown option {name}; {hint}")
        if name in options:
            raise ConfigError(f"{place}: {name} is given twice; keep one")
        if "@" in value and name == "endpoint_url":
            raise ConfigError(f"{place}: {_NO_CREDENTIALS}")
        try:
            options[name] = _READERS[name](value)
        except ValueError as error:
            raise ConfigError(f"{place}: {name}={value}: {error}") from error
    return options


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected http://host:port or https://host")
    _ = parts.port  # raises where it is no number
    return value.rstrip("/")


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("expected true or false")
    return value == "true"


def _name(value: str) -> str:
    if not value:
        raise ValueError("expected a name")
    return value


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 < seconds <= 24 * 3600:
        raise ValueError("expected seconds, more than 0 and at most a day")
    return seconds


def _written(value: bool | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value


_READERS = {
    "endpoint_url": _endpoint,
    "region": _name,
    "path_style": _flag,
    "anonymous": _flag,
    "profile": _name,
    "deadline_s": _seconds,
}
_DEFAULTS = S3Location("any")
