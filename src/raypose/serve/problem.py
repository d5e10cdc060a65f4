"""What is told when something cannot be done: to a client a status, a code and a line, to the log a line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

_DETAIL_CHARACTERS = 500


class Problem(Exception):  # noqa: N818 (it is an answer, too: one bad image is told beside the good ones)
    """`code` is one of `CODES` and stays as it is from version to version; `message` is for people.

    `headers` are what the response says beside its body.
    """

    def __init__(
        self, code: str, message: str, *, retry_after_s: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return CODES[self.code]

    def to_dict(self) -> dict[str, Any]:
        """As the JSON of an answer has it."""
        return {"code": self.code, "message": self.message}


CODES: Mapping[str, int] = {
    "bad_parameter": 400,
    "bad_body": 400,
    "no_image": 400,
    "bad_image": 400,
    "truncated_image": 400,
    "bad_video": 400,
    "no_such_model": 404,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_body": 408,
    "request_too_large": 413,
    "image_too_large": 413,
    "too_many_images": 413,
    "unsupported_image": 415,
    "unsupported_video": 415,
    "overloaded": 429,
    "internal": 500,
    "not_ready": 503,
    "timed_out": 504,
}
"""Every code and its HTTP status."""


def log_failure(line: Mapping[str, str]) -> None:
    """A line of JSON on standard error, for those who run the service: what a client is told has less in it."""
    short = {key: value[:_DETAIL_CHARACTERS] for key, value in line.items()}
    print(json.dumps(short), file=sys.stderr, flush=True)  # noqa: T201
