"""Ask a service from Python, with nothing but the standard library and NumPy.

with Client("http://127.0.0.1:8000") as client:
    answer = client.predict(Path("people.jpg"))
    for person in answer.images[0].people: print(person.score, person.keypoints["nose"])
"""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlencode, urlsplit

from raypose.errors import ConfigError, RayposeError

Image = bytes | Path
Read = TypeVar("Read")
_RETRIES = 3
_MOST_WAIT_S = 30.0


class ServiceError(RayposeError):
    """The service refused or failed. `code` is its machine-readable reason, `status` the HTTP status (0: no answer)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ServiceError], tuple[int, str, str]]:
        return type(self), (self.status, self.code, self.message)


class Keypoint(NamedTuple):
    """In pixels of the image as it is looked at, and how sure the model is to see it."""

    x: float
    y: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Person:
    """`box_xyxy` and `keypoints`, by name, in pixels of the image as it is looked at."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    class_name: str
    keypoints: Mapping[str, Keypoint]
    id: int | None = None
    """The same from frame to frame of a tracked video."""


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """The people of one image, best first; or why there are none (`error` has `code` and `message`)."""

    width: int
    height: int
    people: tuple[Person, ...]
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """All images of a request, in order, and the version of the model that found their people."""

    images: tuple[ImageAnswer, ...]
    model_version: str
    skeleton: str
    total_ms: float


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """The people of one frame of a video, counted from 0; or why there are none (`error`)."""

    number: int
    time_s: float
    people: tuple[Person, ...]
    model_version: str | None = None
    error: Mapping[str, str] | None = None


class Client:
    """One connection, kept open. Not for several threads at once. Waits as 429 says, and asks again a few times."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0, retries: int = _RETRIES
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url}: not the address of a service; expected one such as http://127.0.0.1:8000")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError(
                "api_key: has characters that no header carries, such as the line end of a file; strip it"
            )
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._prefix = parts.path.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def predict(
        self,
        *images: Image,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        keypoint_conf: float | None = None,
        model: str | None = None,
    ) -> Answer:
        """The people in one or several images. Raises ServiceError where the request as a whole is refused."""
        asked = {"conf": conf, "iou": iou, "max_det": max_det, "keypoint_conf": keypoint_conf, "model": model}
        body, kind = _body(images)
        return _answer(json.loads(self._post(f"/v1/predict{_query(asked)}", body, kind)))

    def predict_video(
        self,
        video: Image,
        *,
        track: bool = False,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        keypoint_conf: float | None = None,
        model: str | None = None,
    ) -> Iterator[FrameAnswer]:
        """The people in each frame, as the service is done with it. With `track` they have an `id`.

        Whoever has seen enough closes the iterator: the service stops, too. Raises ServiceError where the video is
        refused or cannot be followed to its end.
        """
        asked = {"conf": conf, "iou": iou, "max_det": max_det, "keypoint_conf": keypoint_conf, "model": model}
        query = _query(asked | {"track": "true" if track else None})
        body, kind = _body((video,))
        response = self._ask("POST", f"/v1/predict/stream{query}", body, {"Content-Type": kind}, _unread)
        ended = False
        try:
            for line in response:
                raw = json.loads(line)
                if "frame" in raw:
                    yield _frame(raw)
                elif "error" in raw:
                    ended = True
                    raise _error_of(response.status, raw["error"])
                ended = "end" in raw
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a line that was cut off
            raise ServiceError(
                0, "unreachable", f"in the middle of the video: {type(error).__name__}: {error}"
            ) from error
        finally:
            if not ended:
                self.close()  # what is left of the answer nobody reads
        if not ended:
            raise ServiceError(0, "unreachable", "the answer broke off before the end of the video")

    def render(
        self,
        image: Image,
        kind: Literal["png", "webp"] = "png",
        *,
        conf: float | None = None,
        keypoint_conf: float | None = None,
    ) -> bytes:
        """The image with the skeletons drawn on it."""
        query = _query({"render": kind, "conf": conf, "keypoint_conf": keypoint_conf})
        return self._post(f"/v1/predict{query}", *_body((image,)))

    def models(self) -> dict[str, Any]:
        """What answers, what did before, what was refused and why."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/v1/models", None, {}, HTTPResponse.read))
        return found

    def _post(self, path: str, body: bytes, kind: str) -> bytes:
        return self._ask("POST", path, body, {"Content-Type": kind}, HTTPResponse.read)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        read: Callable[[HTTPResponse], Read],
    ) -> Read:
        """What `read` makes of the answer, unless that is an error."""
        for attempt in range(self._retries + 1):
            try:
                self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
                response = self._connection.getresponse()
                if response.status < http.HTTPStatus.BAD_REQUEST:
                    return read(response)
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # asking again is safe: a prediction changes nothing
                if attempt == self._retries:
                    raise ServiceError(0, "unreachable", f"{type(error).__name__}: {error}") from error
                time.sleep(0.1 * 2**attempt)
                continue
            if response.status != http.HTTPStatus.TOO_MANY_REQUESTS or attempt == self._retries:
                raise _error(response.status, content)
            time.sleep(_wait_s(response.headers.get("Retry-After", "")))
        raise AssertionError("the last attempt returns or raises")


def _wait_s(retry_after: str) -> float:
    """Of a header of whole seconds; what stands before the service may name a date instead, or nothing."""
    return min(float(retry_after), _MOST_WAIT_S) if retry_after.isdecimal() else 1.0


def _body(images: Sequence[Image]) -> tuple[bytes, str]:
    if not images:
        raise ConfigError("no image to predict; give at least one")
    contents = [image.read_bytes() if isinstance(image, Path) else image for image in images]
    if len(contents) == 1:
        return contents[0], "application/octet-stream"
    boundary = secrets.token_hex(16)
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="images"; filename="%d"\r\n\r\n%s\r\n'
        % (boundary.encode(), number, content)
        for number, content in enumerate(contents)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _query(asked: Mapping[str, Any]) -> str:
    text = urlencode({key: value for key, value in asked.items() if value is not None})
    return f"?{text}" if text else ""


def _answer(raw: Mapping[str, Any]) -> Answer:
    images = tuple(_image(image) for image in raw["images"])
    return Answer(images, raw["model"]["version"], raw["skeleton"], raw["timings_ms"]["total"])


def _image(raw: Mapping[str, Any]) -> ImageAnswer:
    if "error" in raw:
        return ImageAnswer(0, 0, (), raw["error"])
    return ImageAnswer(raw["width"], raw["height"], tuple(_person(person) for person in raw["people"]))


def _frame(raw: Mapping[str, Any]) -> FrameAnswer:
    people = tuple(_person(person) for person in raw.get("people", ()))
    return FrameAnswer(raw["frame"], raw["time_s"], people, raw.get("version"), raw.get("error"))


def _person(raw: Mapping[str, Any]) -> Person:
    keypoints = {point["name"]: Keypoint(point["x"], point["y"], point["confidence"]) for point in raw["keypoints"]}
    return Person(tuple(raw["box"]), raw["score"], raw["class"], MappingProxyType(keypoints), raw.get("id"))


def _error(status: int, content: bytes) -> ServiceError:
    try:
        return _error_of(status, json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(status, "unknown", content[:200].decode("utf-8", "replace"))


def _error_of(status: int, error: Mapping[str, Any]) -> ServiceError:
    return ServiceError(status, str(error["code"]), str(error["message"]))


def _unread(response: HTTPResponse) -> HTTPResponse:
    return response
