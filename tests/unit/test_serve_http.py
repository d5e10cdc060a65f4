"""A service answers requests, each with its own image, model and settings, whatever stands beside it in a batch."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import weakref
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from raypose.config.serve_schema import LimitsConfig
from raypose.errors import RayposeError
from raypose.serve.problem import CODES, Problem
from raypose.serve.uploads import Upload, pixels_of
from tests.serve_fakes import Shelves, config_for, run, serving


def red_square(width: int = 64, height: int = 64, *, box: tuple[int, int, int, int] = (8, 8, 40, 24)) -> bytes:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (0, 0, 255)  # BGR
    return bytes(cv2.imencode(".png", image)[1].tobytes())


WHITE = bytes(cv2.imencode(".png", np.full((64, 64, 3), 255, np.uint8))[1].tobytes())


def ask(*overrides: str, path: str = "/v1/predict", method: str = "POST", **request: Any) -> httpx.Response:
    """One request to a service of its own."""

    async def go() -> httpx.Response:
        shelves = Shelves()
        shelves.add("a")
        async with serving(shelves, config_for("a", *overrides)) as (_, client):
            return await client.request(method, path, **request)

    response: httpx.Response = run(go())
    return response


def people(response: httpx.Response, image: int = 0) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["images"][image]["people"]
    return found


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_people_come_back_in_pixels_of_the_image_that_was_sent_with_their_keypoints_by_name() -> None:
    response = ask(content=red_square(256, 128, box=(64, 32, 128, 96)))
    (person,) = people(response)
    assert person["box"] == [64, 32, 128, 96]
    assert person["class"] == "person"
    assert person["keypoints"][0] == {"name": "head", "x": 64, "y": 32, "confidence": 0.8}
    assert response.json()["model"] == {"name": "pose", "version": "a-v", "role": "stable"}
    assert response.headers["X-Model-Version"] == "a-v"
    assert set(response.json()["images"][0]["timings_ms"]) == {"decode", "queue", "inference", "select"}


def test_an_image_that_exif_turns_is_answered_in_pixels_of_how_it_is_looked_at() -> None:
    from io import BytesIO

    from PIL import Image

    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = 6  # a quarter turn clockwise
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[0:32, 0:64] = (255, 0, 0)
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, quality=100, subsampling=0)
    response = ask(content=buffer.getvalue())
    image = response.json()["images"][0]
    assert (image["width"], image["height"]) == (64, 128)
    assert people(response)[0]["box"] == pytest.approx([32, 0, 64, 64], abs=3)


def test_every_way_to_send_an_image_gives_the_same_people() -> None:
    image = red_square()
    text = base64.b64encode(image).decode()
    raw = people(ask(content=image))
    form = ask(files=[("images", ("one.png", image)), ("images", ("two.png", image))])
    assert people(form, 0) == people(form, 1) == people(ask(json={"images": [text]})) == raw
    assert [entry["name"] for entry in form.json()["images"]] == ["one.png", "two.png"]


def test_a_keypoint_below_the_threshold_is_left_out() -> None:
    (person,) = people(ask(path="/v1/predict?keypoint_conf=0.5", content=red_square()))
    assert [point["name"] for point in person["keypoints"]] == ["head"]


def test_conf_is_each_request_s_own_even_in_one_batch() -> None:
    async def go() -> list[int]:
        shelves = Shelves()
        finder = shelves.add("a", score=0.6)
        async with serving(shelves, config_for("a")) as (service, client):
            finder.gate.clear()
            held = asyncio.create_task(client.post("/v1/predict", content=red_square()))
            await waiting(lambda: len(finder.batches) == 1)
            asked = [
                asyncio.create_task(client.post(f"/v1/predict?conf={conf}", content=red_square()))
                for conf in (0.5, 0.7, 0.1)
            ]
            await waiting(lambda: len(service._lanes._room._jobs) == 3)
            finder.gate.set()
            counts = [len(people(await task)) for task in (held, *asked)]
            assert finder.batches == [1, 3]
            return counts

    assert run(go()) == [1, 1, 0, 1]


def test_an_image_that_waits_is_kept_as_the_model_sees_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[weakref.ref[Any]] = []

    def remembered(upload: Upload, limits: LimitsConfig) -> Any:
        image_HW3 = pixels_of(upload, limits)
        decoded.append(weakref.ref(image_HW3))
        return image_HW3

    monkeypatch.setattr("raypose.serve.service.pixels_of", remembered)

    async def go() -> list[int]:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a")) as (service, client):
            finder.gate.clear()
            image = red_square(640, 480)
            first = asyncio.create_task(client.post("/v1/predict", content=image))
            await waiting(lambda: finder.batches)
            async with asyncio.timeout(5):  # the thread that decoded it lets go a moment later
                await waiting(lambda: decoded[0]() is None)
            drawn = asyncio.create_task(client.post("/v1/predict?render=png", content=image))
            await waiting(lambda: service._lanes._room._jobs)
            assert decoded[1]() is not None
            finder.gate.set()
            return [(await task).status_code for task in (first, drawn)]

    assert run(go()) == [200, 200]


async def waiting(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_an_image_that_breaks_the_model_fails_alone() -> None:
    async def go() -> list[tuple[int, int]]:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a")) as (service, client):
            finder.gate.clear()
            held = asyncio.create_task(client.post("/v1/predict", content=red_square()))
            await waiting(lambda: len(finder.batches) == 1)
            beside = [
                asyncio.create_task(client.post("/v1/predict", content=content))
                for content in (red_square(), WHITE, red_square())
            ]
            await waiting(lambda: len(service._lanes._room._jobs) == 3)
            finder.gate.set()
            return [(await task).status_code for task in (held, *beside)]

    assert run(go()) == [200, 200, 500, 200]


def test_a_model_that_fails_on_every_image_is_told_from_images_that_every_model_fails_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    async def go() -> list[int]:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a")) as (service, client):

            async def ask(content: bytes) -> int:
                return (await client.post("/v1/predict", content=content)).status_code

            statuses = [await ask(WHITE) for _ in range(5)] + [await ask(red_square())]
            service.require_sound()
            with monkeypatch.context() as patched:
                patched.setattr(finder, "_row", lost)
                statuses += [await ask(red_square()) for _ in range(2)]
                service.require_sound()  # two may be chance
                statuses += [await ask(red_square())]
                await waiting(lambda: service.models()[0][1].fault)
                with pytest.raises(RayposeError, match=r"a-v, fake: .*grey image: RuntimeError"):
                    service.require_sound()
            statuses += [await ask(red_square())]
            service.require_sound()  # it has come back
            return statuses

    assert run(go()) == [500] * 5 + [200] + [500] * 3 + [200]
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["detail"][:5] for line in told] == ["white"] * 5 + ["CUDA "] * 3
    assert {line["version"] for line in told} == {"a-v"}


def test_a_model_that_hangs_makes_its_replica_unsound_until_it_comes_back() -> None:
    async def go() -> int:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a", "limits.request_s=0.05")) as (service, client):
            finder.gate.clear()
            given_up = await client.post("/v1/predict", content=red_square())
            service.require_sound()  # slow is not hanging
            await asyncio.sleep(0.15)
            with pytest.raises(RayposeError, match=r"has not answered for \d+ s; this replica has to be replaced"):
                service.require_sound()
            finder.gate.set()
            await waiting(lambda: not service._lanes.longest_call_s())
            service.require_sound()
            return given_up.status_code

    assert run(go()) == 504


def test_an_image_that_breaks_its_decoder_fails_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pixels(upload: Upload, limits: LimitsConfig) -> Any:
        if upload.name == "bad.png":
            raise MemoryError("24 GiB")
        return pixels_of(upload, limits)

    monkeypatch.setattr("raypose.serve.service.pixels_of", pixels)
    response = ask(files=[("images", ("good.png", red_square())), ("images", ("bad.png", red_square()))])
    assert len(people(response)) == 1
    assert response.json()["images"][1]["error"]["code"] == "internal"
    assert "GiB" not in response.text
    assert "GiB" in capsys.readouterr().err
    assert code(ask(files=[("images", ("bad.png", red_square()))])) == (500, "internal")


def test_a_picture_counts_in_the_queue_until_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pending: list[int] = []

    async def go() -> None:
        shelves = Shelves()
        shelves.add("a")
        async with serving(shelves, config_for("a")) as (service, client):

            def drawn(*_: Any) -> bytes:
                pending.append(service.pending)
                return b"drawn"

            monkeypatch.setattr("raypose.serve.http.picture", drawn)
            await client.post("/v1/predict?render=png", content=red_square())
            pending.append(service.pending)

    run(go())
    assert pending == [1, 0]


def test_a_bad_image_of_several_has_its_error_beside_the_people_of_the_others() -> None:
    response = ask(files=[("images", ("good.png", red_square())), ("images", ("bad.png", b"<svg/>"))])
    assert len(people(response)) == 1
    assert response.json()["images"][1]["error"]["code"] == "unsupported_image"


def test_where_every_image_is_bad_the_request_is() -> None:
    assert code(ask(content=b"<svg/>")) == (415, "unsupported_image")


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_render_answers_with_the_image_and_its_skeletons(kind: str) -> None:
    response = ask(path=f"/v1/predict?render={kind}", content=red_square(96, 64))
    assert response.headers["content-type"] == f"image/{kind}"
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (64, 96, 3)


@pytest.mark.parametrize(
    "query",
    ["conf=2", "conf=-0.1", "conf=nan", "conf=inf", "conf=", "iou=x", "max_det=0", "max_det=1e9", "render=svg",
     "keypoint_conf=1.01", "model=" + "m" * 300],
)  # fmt: skip
def test_a_parameter_out_of_range_is_named(query: str) -> None:
    response = ask(path=f"/v1/predict?{query}", content=red_square())
    assert code(response) == (400, "bad_parameter")
    assert response.json()["error"]["message"].startswith(query.partition("=")[0])


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/predict", (405, "method_not_allowed")),
        ("GET", "/nothing/here", (404, "not_found")),
        ("GET", "/../../etc/passwd", (404, "not_found")),
        ("POST", "/v1/predict?model=none", (404, "no_such_model")),
    ],
)
def test_what_is_not_there_has_a_code_too(method: str, path: str, expected: tuple[int, str]) -> None:
    content = red_square() if method == "POST" else None
    assert code(ask(path=path, method=method, content=content)) == expected


def test_a_wrong_method_is_told_which_ones_there_are() -> None:
    assert ask(path="/v1/predict", method="GET").headers["Allow"] == "POST"


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100

    announced = ask("limits.request_bytes=1000", content=b"x" * 1001)
    assert code(announced) == (413, "request_too_large")
    assert code(ask("limits.request_bytes=1000", content=pieces())) == (413, "request_too_large")


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def pieces() -> Any:
        yield b"x"
        await asyncio.sleep(5)

    assert code(ask("limits.body_s=0.05", content=pieces())) == (408, "slow_body")


def test_a_request_that_takes_too_long_is_given_up_and_its_image_never_reaches_the_model() -> None:
    async def go() -> tuple[Any, list[int]]:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a", "limits.request_s=0.2")) as (service, client):
            finder.gate.clear()
            responses = [asyncio.create_task(client.post("/v1/predict", content=red_square())) for _ in range(3)]
            answers = [code(await task) for task in responses]
            finder.gate.set()
            await waiting(lambda: not service._lanes._room._jobs)
            assert service.pending == 0
            return answers, finder.batches

    answers, batches = run(go())
    assert answers == [(504, "timed_out")] * 3
    assert len(batches) == 1


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def go() -> list[httpx.Response]:
        shelves = Shelves()
        finder = shelves.add("a")
        async with serving(shelves, config_for("a", "limits.queue_images=2")) as (service, client):
            finder.gate.clear()
            accepted = [asyncio.create_task(client.post("/v1/predict", content=red_square())) for _ in range(2)]
            await waiting(lambda: service.pending == 2)
            refused = await client.post("/v1/predict", content=red_square())
            finder.gate.set()
            return [refused, *[await task for task in accepted]]

    refused, *accepted = run(go())
    assert code(refused) == (429, "overloaded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert [response.status_code for response in accepted] == [200, 200]


def test_a_key_lets_in_and_its_absence_does_not() -> None:
    key = f'access.api_keys=["sha256:{hashlib.sha256(b"secret").hexdigest()}"]'
    image = red_square()
    without = ask(key, content=image)
    assert code(without) == (401, "unauthorized")
    assert without.headers["WWW-Authenticate"].startswith("Bearer ")  # as RFC 9110 wants it of every 401
    assert code(ask(key, content=image, headers={"X-API-Key": "Secret"})) == (401, "unauthorized")
    assert people(ask(key, content=image, headers={"X-API-Key": "secret"}))
    assert people(ask(key, content=image, headers={"Authorization": "Bearer secret"}))
    assert ask(key, path="/readyz", method="GET").status_code == 200
    assert ask(key, path="/metrics", method="GET").status_code == 401
    assert ask(key, path="/v2/models/pose/infer", json={}).status_code == 401


def test_a_key_lets_in_beside_a_token_that_a_gateway_has_put_into_the_other_header() -> None:
    key = f'access.api_keys=["sha256:{hashlib.sha256(b"secret").hexdigest()}"]'
    both = {"X-API-Key": "secret", "Authorization": "Bearer eyJhbGciOi"}
    assert people(ask(key, content=red_square(), headers=both))
    swapped = {"X-API-Key": "other", "Authorization": "Bearer secret"}
    assert people(ask(key, content=red_square(), headers=swapped))


def test_pages_of_other_origins_get_nothing_unless_they_are_listed() -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    closed = ask(method="OPTIONS", headers=headers)
    assert "access-control-allow-origin" not in closed.headers
    opened = ask('access.cors_origins=["https://app.example"]', method="OPTIONS", headers=headers)
    assert opened.headers["access-control-allow-origin"] == "https://app.example"


def test_a_page_of_a_listed_origin_may_read_why_it_is_refused() -> None:
    key = f'access.api_keys=["sha256:{hashlib.sha256(b"secret").hexdigest()}"]'
    origin = 'access.cors_origins=["https://app.example"]'
    refused = ask(key, origin, content=red_square(), headers={"Origin": "https://app.example"})
    assert code(refused) == (401, "unauthorized")
    assert refused.headers["access-control-allow-origin"] == "https://app.example"


def test_metrics_tell_of_requests_batches_people_and_models() -> None:
    async def go() -> str:
        shelves = Shelves()
        shelves.add("a")
        async with serving(shelves, config_for("a")) as (_, client):
            await client.post("/v1/predict", content=red_square())
            await client.post("/v1/predict", content=b"<svg/>")
            await client.get("/a/path/of/a/stranger")
            await client.post("/v2/models/pose/versions/a-v/infer", content=b"no JSON")
            return (await client.get("/metrics")).text

    text = run(go())
    for line in (
        'raypose_serve_requests_total{code="ok",path="/v1/predict",replica="r0"} 1.0',
        'raypose_serve_requests_total{code="unsupported_image",path="/v1/predict",replica="r0"} 1.0',
        'raypose_serve_requests_total{code="not_found",path="other",replica="r0"} 1.0',
        'raypose_serve_requests_total{code="bad_body",path="/v2/models/pose/infer",replica="r0"} 1.0',
        'raypose_serve_people_sum{replica="r0",version="a-v"} 1.0',
        'raypose_serve_batch_images_count{replica="r0"} 1.0',
        'raypose_serve_model_info{compute="fake",replica="r0",role="stable",version="a-v"} 1.0',
        'raypose_serve_queue_images{replica="r0"} 0.0',
    ):
        assert line in text


def test_an_error_of_ours_is_told_without_its_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypose.serve.http.answer_json", lambda *_, **__: 1 / 0)
    response = ask(content=red_square())
    assert code(response) == (500, "internal")
    assert "division" not in response.text


def test_the_description_of_the_api_lists_every_code() -> None:
    text = ask(path="/openapi.json", method="GET").text
    assert all(f'"{name}"' in text for name in ("bad_image", "overloaded", "timed_out"))


def test_the_description_of_the_api_lists_no_status_that_is_never_sent() -> None:
    described = ask(path="/openapi.json", method="GET").json()
    sent = {str(status) for status in CODES.values()} | {"200", "default"}
    listed = {status for path in described["paths"].values() for one in path.values() for status in one["responses"]}
    assert listed <= sent
    assert ask(path="/v1/predict?conf=2", content=red_square()).status_code == 400


def test_the_description_says_what_needs_a_key_where_there_are_keys() -> None:
    key = f'access.api_keys=["sha256:{hashlib.sha256(b"secret").hexdigest()}"]'
    described = ask(key, path="/openapi.json", method="GET").json()
    assert set(described["components"]["securitySchemes"]) == {"bearer", "header"}
    needing = {path for path, one in described["paths"].items() if any("security" in each for each in one.values())}
    for path in described["paths"]:
        refused = ask(key, path=path, method=next(iter(described["paths"][path])).upper()).status_code == 401
        assert refused == (path in needing), path
    assert "securitySchemes" not in ask(path="/openapi.json", method="GET").text


def test_a_problem_is_an_exception_with_a_status() -> None:
    assert Problem("overloaded", "later", retry_after_s=3).headers == {"Retry-After": "3"}
