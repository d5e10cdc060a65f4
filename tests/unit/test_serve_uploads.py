"""What strangers send: every image gets its pixels or the code that says what is wrong with it."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.config.serve_schema import LimitsConfig
from raypose.serve.multipart import parse_multipart
from raypose.serve.problem import CODES, Problem
from raypose.serve.uploads import Upload, pixels_of, uploads_of
from tests.hostile_images import HOSTILE, JPEG, Hostile

LIMITS = LimitsConfig()


def form(*contents: bytes, boundary: str = "b0undary") -> tuple[bytes, str]:
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="images"; filename="%d.jpg"\r\n\r\n%s\r\n'
        % (boundary.encode(), number, content)
        for number, content in enumerate(contents)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def refusal(body: bytes, kind: str, limits: LimitsConfig = LIMITS) -> str:
    with pytest.raises(Problem) as caught:
        uploads_of(body, kind, limits)
    return caught.value.code


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_image_gets_its_code_or_its_pixels(hostile: Hostile) -> None:
    try:
        image_HW3 = pixels_of(Upload("upload", hostile.content), LIMITS)
    except Problem as problem:
        assert problem.code == hostile.code
        assert 400 <= problem.status < 500
        assert "Traceback" not in problem.message
    else:
        assert hostile.code is None
        assert (image_HW3.shape[1], image_HW3.shape[0]) == hostile.size


def test_there_are_at_least_forty_of_them() -> None:
    assert len(HOSTILE) >= 40


def test_an_image_above_the_limit_of_pixels_is_refused_by_its_header() -> None:
    with pytest.raises(Problem, match="16x16 are 256 pixels, at most 255") as caught:
        pixels_of(Upload("small", JPEG), LimitsConfig(image_pixels=255))
    assert caught.value.code == "image_too_large"


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8))
def test_a_form_gives_back_every_part_byte_for_byte(contents: list[bytes]) -> None:
    body, kind = form(*contents, boundary="x" * 40)
    found = uploads_of(body, kind, LIMITS)
    assert [upload.content for upload in found] == contents
    assert [upload.name for upload in found] == [f"{number}.jpg" for number in range(len(contents))]


@given(st.binary(max_size=400), st.sampled_from([form(b"a", b"bc")[0], b"--b0undary", b"--b0undary\r\n"]))
def test_a_spoilt_form_is_refused_or_read_but_never_an_accident(noise: bytes, start: bytes) -> None:
    for body in (noise, start + noise, start[: len(noise)] + noise):
        try:
            list(parse_multipart(body, "multipart/form-data; boundary=b0undary", most=16))
        except Problem as problem:
            assert problem.code in ("bad_body", "too_many_images")


def test_a_preamble_before_the_first_boundary_is_passed_over() -> None:
    body, kind = form(b"content")
    assert uploads_of(b"as mail has it\r\n" + body, kind, LIMITS) == [Upload("0.jpg", b"content")]


def test_a_file_name_is_a_name_and_no_path_or_control_sequence() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="../../etc/\x1b[31mpasswd"\r\n\r\nx\r\n--b--'
    )
    (upload,) = uploads_of(body, "multipart/form-data; boundary=b", LIMITS)
    assert upload.name == "../../etc/?[31mpasswd"


def test_json_takes_base64_with_and_without_names_and_data_urls() -> None:
    text = base64.b64encode(b"bytes").decode()
    body = {"images": [text, {"name": "second", "data": text}, f"data:image/jpeg;base64,{text}"]}
    found = uploads_of(json.dumps(body).encode(), "application/json; charset=utf-8", LIMITS)
    assert [(upload.name, upload.content) for upload in found] == [
        ("images[0]", b"bytes"), ("second", b"bytes"), ("images[2]", b"bytes"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"", "image/jpeg", "no_image"),
        (b"{", "application/json", "bad_body"),
        (b"[" * 100_000, "application/json", "bad_body"),
        (b"[]", "application/json", "bad_body"),
        (b'{"images": "text"}', "application/json", "bad_body"),
        (b'{"images": []}', "application/json", "no_image"),
        (b'{"images": [3]}', "application/json", "bad_body"),
        (b'{"images": ["not base64!"]}', "application/json", "bad_body"),
        (json.dumps({"images": ["AA=="] * 17}).encode(), "application/json", "too_many_images"),
        (b"\xff\xfe", "application/json", "bad_body"),
        (form(*[b"x"] * 17)[0], form()[1], "too_many_images"),
        (form(b"x")[0], "multipart/form-data", "bad_body"),
        (form(b"x")[0], "multipart/form-data; boundary=another", "bad_body"),
        (form(b"x")[0][:-14], form()[1], "bad_body"),
        (b"--b0undary--\r\n", form()[1], "no_image"),
    ],
)
def test_a_body_without_images_says_what_it_lacks(body: bytes, kind: str, code: str) -> None:
    assert refusal(body, kind) == code


def test_every_code_is_an_error_of_the_client_or_the_service() -> None:
    assert all(400 <= status < 600 for status in CODES.values())
