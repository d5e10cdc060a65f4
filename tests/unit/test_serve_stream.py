"""A video goes in, lines come out while it is under way; whoever goes away takes the work along."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from raypose.config.serve_schema import CanaryConfig
from raypose.serve.http import create_app
from raypose.serve.models import Wanted
from raypose.serve.problem import Problem
from raypose.serve.stream import UploadedVideo
from raypose.serve.uploads import Upload
from tests.serve_fakes import Shelves, config_for, post_scope, run, serving
from tests.unit.test_serve_http import waiting


def film(folder: Path, frames: int = 6, *, side: int = 64) -> bytes:
    """A red square that moves to the right."""
    path = folder / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (side, side))
    for number in range(frames):
        image = np.zeros((side, side, 3), np.uint8)
        image[8:40, 4 + 2 * number : 28 + 2 * number] = (0, 0, 255)  # BGR
        writer.write(image)
    writer.release()
    return path.read_bytes()


def stream(content: bytes, query: str = "", *overrides: str, **request: Any) -> httpx.Response:
    """One video to a service of its own."""

    async def go() -> httpx.Response:
        shelves = Shelves()
        shelves.add("a", score=0.6)
        async with serving(shelves, config_for("a", *overrides)) as (service, client):
            if content:
                request["content"] = content
            response = await client.post(f"/v1/predict/stream{query}", **request)
            assert service.pending == 0
            return response

    response: httpx.Response = run(go())
    return response


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_each_frame_has_a_line_between_what_the_video_is_and_its_end(tmp_path: Path) -> None:
    response = stream(film(tmp_path))
    assert response.headers["content-type"] == "application/x-ndjson"
    first, *frames, last = lines(response)
    assert first == {"video": {"width": 64, "height": 64, "fps": 10.0}}
    assert last == {"end": {"frames": 6}}
    assert [frame["frame"] for frame in frames] == list(range(6))
    assert [frame["time_s"] for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    left = [frame["people"][0]["box"][0] for frame in frames]
    assert left == pytest.approx([4 + 2 * number for number in range(6)], abs=2)
    assert {frame["version"] for frame in frames} == {"a-v"}


def test_a_tracked_person_keeps_the_id(tmp_path: Path) -> None:
    frames = lines(stream(film(tmp_path), "?track=true"))[1:-1]
    assert [frame["people"][0]["id"] for frame in frames] == [1] * 6


def test_a_form_with_a_video_will_do_and_one_with_two_will_not(tmp_path: Path) -> None:
    content = film(tmp_path, 2)
    assert len(lines(stream(b"", files={"video": ("film.avi", content)}))) == 4
    both = stream(b"", files=[("video", ("a.avi", content)), ("video", ("b.avi", content))])
    assert (both.status_code, both.json()["error"]["code"]) == (400, "bad_parameter")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"\xff\xd8\xff a photograph", 415, "unsupported_video"),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415, "unsupported_video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "unsupported_video"),
        (b"RIFF\x00\x00\x00\x00AVI no more than this", 400, "bad_video"),
        (b"\x00\x00\x00\x18ftypmp42 no more than this", 400, "bad_video"),
        (b"", 400, "no_image"),
    ],
)
def test_what_is_no_video_is_refused_before_anything_is_answered(content: bytes, status: int, code: str) -> None:
    response = stream(content)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_video_that_is_refused_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for bad, code in ((b"RIFF\x00\x00\x00\x00AVI no more than this", "bad_video"), (content, "image_too_large")):
        with pytest.raises(Problem) as caught:
            UploadedVideo(Upload("film.avi", bad), most_pixels=100)
        assert caught.value.code == code
        assert list((tmp_path / "temporary").iterdir()) == []


def test_a_video_that_is_closed_the_moment_that_a_frame_was_read_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = film(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    video = UploadedVideo(Upload("film.avi", content), most_pixels=10_000)

    class ClosedInside:
        """The lock of whoever reads; somebody closes the video just before it is released."""

        lock = threading.Lock()
        acquire, release = lock.acquire, lock.release

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            video.close()
            self.lock.release()

    monkeypatch.setattr(video, "_reading", ClosedInside())
    assert video.read() is not None
    assert list((tmp_path / "temporary").iterdir()) == []
    assert video.read() is None


def test_limits_hold_for_videos_as_for_images(tmp_path: Path) -> None:
    content = film(tmp_path)
    for limit, code in (("request_bytes=100", "request_too_large"), ("image_pixels=4095", "image_too_large")):
        response = stream(content, "", f"limits.{limit}")
        assert (response.status_code, response.json()["error"]["code"]) == (413, code)


def test_a_full_service_takes_no_video(tmp_path: Path) -> None:
    async def go() -> int:
        shelves = Shelves()
        shelves.add("a")
        async with serving(shelves, config_for("a", "limits.queue_images=8")) as (service, client):
            with service.admitted(1):
                return (await client.post("/v1/predict/stream", content=film(tmp_path))).status_code

    assert run(go()) == 429


def test_a_video_that_breaks_off_has_the_frames_that_it_has_then_its_error(tmp_path: Path) -> None:
    content = film(tmp_path, 40)
    first, *frames, last = lines(stream(content[: len(content) // 2]))
    assert 0 < len(frames) < 40
    assert first["video"]["width"] == 64
    assert [frame["frame"] for frame in frames] == list(range(len(frames)))
    assert last["error"]["code"] == "bad_video"
    assert f"decoding ended after {len(frames)} of 40 frames" in last["error"]["message"]


def test_a_client_that_goes_away_ends_the_work(tmp_path: Path) -> None:
    content = film(tmp_path, 200)

    async def go() -> tuple[int, int]:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a")) as (service, _):
            gone = asyncio.Event()
            body = iter([{"type": "http.request", "body": content, "more_body": False}])

            async def receive() -> dict[str, Any]:
                message = next(body, None)
                if message is not None:
                    return message
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                if b'"frame":3' in message.get("body", b""):
                    gone.set()

            await create_app(service)(post_scope("/v1/predict/stream"), receive, send)
            return service.pending, sum(finder.batches)

    pending, predicted = run(go())
    assert pending == 0
    assert predicted < 100


def test_a_video_stays_with_the_model_that_began_it_though_that_goes(tmp_path: Path) -> None:
    content = film(tmp_path, 30)

    async def go() -> list[dict[str, Any]]:
        shelves = Shelves()
        for name, score in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
            shelves.add(name, score=score)
        held: Any = shelves.places["b"]
        finder = held._alone[0]._backend
        finder.gate.clear()
        async with serving(shelves, config_for("a", "canary={model: b, share: 0.0}")) as (service, client):
            answer = asyncio.create_task(client.post("/v1/predict/stream?model=canary", content=content))
            await waiting(lambda: finder.batches)
            assert await service.change(Wanted("a", canary=CanaryConfig(model="c")))
            assert await service.change(Wanted("a"))
            finder.gate.set()
            return lines(await answer)

    _, *frames, last = run(go())
    assert last == {"end": {"frames": 30}}
    assert {frame["version"] for frame in frames} == {"b-v"}


def test_the_description_is_shown_without_asking_another_server() -> None:
    async def go() -> tuple[str, list[int], list[str]]:
        shelves = Shelves()
        shelves.add("a")
        async with serving(shelves, config_for("a")) as (_, client):
            page = (await client.get("/docs")).text
            parts = [await client.get(path) for path in ("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css")]
            described = (await client.get("/openapi.json")).json()
            return page, [part.status_code for part in parts], list(described["paths"])

    page, statuses, paths = run(go())
    assert "http://" not in page
    assert "https://" not in page
    assert statuses == [200, 200]
    assert "/v1/predict/stream" in paths
