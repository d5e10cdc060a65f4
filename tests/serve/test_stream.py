"""A video through the whole service: lines come while it is under way, and end when nobody reads them."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import pytest

from raypose.serve.client import Client, ServiceError
from tests.serve.conftest import Served
from tests.served_run import photograph

pytestmark = pytest.mark.ray


def film(folder: Path, frames: int) -> bytes:
    path = folder / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (320, 240))
    for number in range(frames):
        writer.write(cv2.cvtColor(photograph(seed=number % 5), cv2.COLOR_RGB2BGR))
    writer.release()
    return path.read_bytes()


def ask(served: Served, body: bytes) -> http.client.HTTPConnection:
    address = urlsplit(served.url)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.request("POST", "/v1/predict/stream?track=true", body)
    return connection


def test_every_frame_of_a_video_comes_back_in_order(served: Served, tmp_path: Path) -> None:
    connection = ask(served, film(tmp_path, 20))
    first, *frames, last = [json.loads(line) for line in connection.getresponse()]
    connection.close()
    assert first["video"]["fps"] == 10.0
    assert [frame["frame"] for frame in frames] == list(range(20))
    assert last == {"end": {"frames": 20}}


def test_the_client_follows_a_video_as_far_as_it_likes(served: Served, tmp_path: Path) -> None:
    video = film(tmp_path, 20)
    with Client(served.url) as client:
        frames = list(client.predict_video(video, track=True))
        assert [frame.number for frame in frames] == list(range(20))
        assert [frame.time_s for frame in frames[:3]] == [0.0, 0.1, 0.2]
        assert {frame.model_version for frame in frames} == set(served.versions())
        assert any(person.id for frame in frames for person in frame.people)
        some = client.predict_video(video)
        assert next(some).number == 0
        some.close()
        assert next(client.predict_video(video)).number == 0  # by a connection that has no rest of the last answer
        with pytest.raises(ServiceError, match="unsupported_video"):
            next(client.predict_video(b"no video"))


def test_the_work_ends_with_the_client(served: Served, tmp_path: Path) -> None:
    connection = ask(served, film(tmp_path, 1000))
    response = connection.getresponse()
    assert b"video" in response.readline()
    assert b'"frame":0' in response.readline()  # long before the last one is done
    assert served.pending() > 0
    response.close()
    connection.close()
    deadline_s = time.monotonic() + 120
    while served.pending():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
