"""The whole service as a user has it: `raypose serve`, Ray Serve, HAProxy, a real model."""

from __future__ import annotations

import http.client
import os
import signal
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from raypose import api
from raypose.serve.client import Client, ServiceError
from tests.hostile_images import HOSTILE
from tests.serve.conftest import Served
from tests.serve.load import Load
from tests.served_run import OTHER_SPEC, add_checkpoint, jpeg, photograph

pytestmark = pytest.mark.ray


def test_the_people_are_those_that_predict_finds(served: Served) -> None:
    from raypose.vision.decode import decode_rgb

    content = jpeg(photograph(200, 300, seed=3))
    (expected,) = api.load(served.run).predict([decode_rgb(content, "here")])
    with Client(served.url) as client:
        (image,) = client.predict(content).images
    assert (image.width, image.height) == (200, 300)
    assert len(image.people) == len(expected) > 0
    for person, box_4, score in zip(image.people, expected.box_xyxy_N4, expected.score_N, strict=True):
        assert person.box_xyxy == pytest.approx(box_4.tolist(), abs=0.5)
        assert person.score == pytest.approx(float(score), abs=0.01)


def test_every_hostile_upload_gets_its_refusal_or_its_answer_and_the_service_lives(served: Served) -> None:
    with Client(served.url) as client:
        for hostile in HOSTILE:
            try:
                (image,) = client.predict(hostile.content).images
            except ServiceError as error:
                assert (hostile.name, error.code) == (hostile.name, hostile.code)
                assert 400 <= error.status < 500
            else:
                assert (hostile.name, None) == (hostile.name, hostile.code)
                assert (image.width, image.height) == hostile.size
        together = client.predict(*[hostile.content for hostile in HOSTILE[-8:]], jpeg())
        assert all(image.error for image in together.images[:-1])
        assert together.images[-1].people


def test_a_client_of_triton_infers(served: Served) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(served.url.removeprefix("http://"))
    assert client.is_server_ready()
    assert client.is_model_ready("pose")
    image = triton.InferInput("image", [2], "BYTES")
    image.set_data_from_numpy(np.array([jpeg(), b"<svg/>"], dtype=object))
    found = client.infer("pose", [image])
    people = len(found.as_numpy("score"))
    assert people > 0
    assert found.as_numpy("keypoints").shape == (people, 17, 3)
    assert found.as_numpy("error").tolist() == [b"", b"unsupported_image"]
    client.close()


def test_a_picture_comes_back_as_a_picture(served: Served) -> None:
    with Client(served.url) as client:
        assert client.render(jpeg(), "webp")[8:12] == b"WEBP"


def test_a_connection_that_breaks_off_in_its_body_harms_nobody(served: Served) -> None:
    place = urlsplit(served.url).netloc
    for _ in range(5):
        connection = http.client.HTTPConnection(place, timeout=10)
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"\xff\xd8\xff" + b"x" * 1000)
        connection.close()
    with Client(served.url) as client:
        assert client.predict(jpeg()).images[0].people


def test_models_change_under_load_without_a_failed_request(served: Served) -> None:
    first = served.versions()[0]
    second = add_checkpoint(served.run, 2, seed=1, pose_ap=0.05)
    replicas = served.replicas()
    with Load(served.url, 3) as load:
        for place, start in ((second, "step-00000002"), (served.run, "step-00000001"), (second, "step-00000002")):
            served.configure(place)
            served.wait_for(start)
    assert set(load.outcomes) == {first, served.versions()[0]}
    assert served.replicas() == replicas


def test_a_damaged_and_a_foreign_checkpoint_never_take_the_place_of_what_serves(served: Served) -> None:
    served.configure(served.run, follow_s="0.5")
    served.wait_for("step-00000001")
    damaged = add_checkpoint(served.run.with_name("damaged"), 3, seed=1, pose_ap=0.3)
    content = bytearray((damaged / "state.safetensors").read_bytes())
    content[-9] ^= 0xFF
    (damaged / "state.safetensors").write_bytes(content)
    damaged.rename(served.run / "checkpoints" / damaged.name)  # now: the service shall never see it whole
    served.wait_for_refusal("sha256")
    foreign = add_checkpoint(served.run.with_name("foreign"), 1, seed=0, pose_ap=0.5, spec=OTHER_SPEC)
    served.configure(foreign)
    served.wait_for_refusal("2 keypoints instead of 17")
    with Client(served.url) as client:
        assert client.predict(jpeg()).model_version.startswith("step-00000001")
    served.configure(served.run, follow_s="0.5")
    add_checkpoint(served.run, 4, seed=0, pose_ap=0.4)
    served.wait_for("step-00000004")


def test_a_change_that_fails_ends_no_command_and_the_next_one_mends_it(served: Served) -> None:
    """Other limits would take another replica in the place of the only one."""
    served.configure(served.run)
    served.wait_for("step-0000000")
    good = served.config.read_text()
    for spoilt, told in (
        (good.replace("queue_images: 32", "queue_images: 16"), "limits: cannot change while the service runs"),
        (f"{good}http: {{host: 127.0.0.2}}\n", "http: cannot change while the service runs"),
    ):  # fmt: skip
        served.config.write_text(spoilt)
        served.process.send_signal(signal.SIGHUP)
        deadline_s = time.monotonic() + 120
        while told not in served.log.read_text(errors="replace"):
            assert served.process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
    served.config.write_text(good)
    served.process.send_signal(signal.SIGHUP)
    with Client(served.url, retries=0, timeout_s=5) as client:
        deadline_s = time.monotonic() + 120
        while True:
            try:
                assert client.predict(jpeg()).images[0].people
                return
            except ServiceError:
                assert time.monotonic() < deadline_s
                time.sleep(0.5)


def test_after_a_killed_replica_the_service_is_whole_again_by_itself(served: Served) -> None:
    (before,) = served.replicas()
    os.kill(before, signal.SIGKILL)
    deadline_s = time.monotonic() + 240
    while served.replicas() in ([], [before]):
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    with Client(served.url, retries=60, timeout_s=5) as client:
        assert client.predict(jpeg()).images[0].people
