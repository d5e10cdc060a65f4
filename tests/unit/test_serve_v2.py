"""The Open Inference Protocol v2: tensors in, tensors out, as JSON and as bytes."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.serve.problem import Problem
from raypose.serve.tensors import parse_request
from tests.unit.test_serve_http import ask, red_square

INFER = "/v2/models/pose/infer"
TEXT = base64.b64encode(red_square()).decode()


def infer(inputs: list[dict[str, Any]], *overrides: str, **rest: Any) -> httpx.Response:
    return ask(*overrides, path=INFER, json={"inputs": inputs, **rest})


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {entry["name"]: entry for entry in response.json()["outputs"]}


def test_encoded_images_give_tensors_over_all_people_and_say_which_image_each_is_in() -> None:
    empty = base64.b64encode(cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()).decode()
    data = [empty, TEXT, base64.b64encode(b"<svg/>").decode(), TEXT]
    found = outputs(infer([{"name": "image", "datatype": "BYTES", "shape": [4], "data": data}], id="seven"))
    assert found["image_index"]["data"] == [1, 3]
    assert found["box"]["shape"] == [2, 4]
    assert found["box"]["data"] == [8, 8, 40, 24] * 2
    assert found["keypoints"]["shape"] == [2, 2, 3]
    assert found["error"]["data"] == ["", "", "unsupported_image", ""]


def test_pixels_give_the_same_as_the_image_they_came_from() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[8:24, 8:40, 0] = 255
    raw = {"name": "pixels", "datatype": "UINT8", "shape": [64, 64, 3], "data": pixels.ravel().tolist()}
    assert outputs(infer([raw]))["box"]["data"] == [8, 8, 40, 24]


def test_binary_tensors_go_in_and_come_out_behind_the_json() -> None:
    image = red_square()
    block = struct.pack("<I", len(image)) + image
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(block)}}
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "box", "parameters": {"binary_data": True}}]}).encode()
    response = ask(path=INFER, content=head + block, headers={"Inference-Header-Content-Length": str(len(head))})
    length = int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(response.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(response.content[length:], np.float32).tolist() == [8, 8, 40, 24]


def test_metadata_and_health_are_as_clients_of_the_protocol_expect() -> None:
    def get(path: str) -> Any:
        return ask(path=path, method="GET").json()

    assert get("/v2")["extensions"] == ["binary_tensor_data"]
    about = get("/v2/models/pose")
    assert about["versions"] == ["a-v"]
    assert [entry["name"] for entry in about["inputs"]] == ["image", "pixels"]
    assert ask(path="/v2/models/pose/versions/a-v/ready", method="GET").status_code == 200
    assert ask(path="/v2/models/other/ready", method="GET").status_code == 404
    assert isinstance(get("/v2/models/other")["error"], str)


@pytest.mark.parametrize(
    ("inputs", "status"),
    [
        ([], 400),
        ([{"name": "other", "datatype": "BYTES", "shape": [1], "data": [TEXT]}], 400),
        ([{"name": "image", "datatype": "FP64", "shape": [1], "data": [1]}], 400),
        ([{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["?"]}], 400),
        ([{"name": "image", "datatype": "BYTES", "shape": [0], "data": []}], 400),
        ([{"name": "image", "datatype": "BYTES", "shape": [17], "data": [TEXT] * 17}], 413),
        ([{"name": "pixels", "datatype": "UINT8", "shape": [2, 2, 3], "data": [1]}], 400),
        ([{"name": "pixels", "datatype": "UINT8", "shape": [1], "data": [300]}], 400),
        ([{"name": "pixels", "datatype": "UINT8", "shape": [0, 2, 3], "data": []}], 400),
        ([{"name": "pixels", "datatype": "UINT8", "shape": [-1, 2, 3], "data": []}], 400),
        ([{"name": "pixels", "datatype": "UINT8", "shape": [3], "data": [1, 2, 3]}], 400),
        ([{"name": "image"}], 400),
        (["image"], 400),
    ],
)
def test_tensors_that_are_none_are_refused(inputs: list[Any], status: int) -> None:
    assert infer(inputs).status_code == status


@pytest.mark.parametrize("parameters", [{"conf": 2}, {"conf": "x"}, {"max_det": -1}, {"iou": True}, {"conf": None}])
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any]) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    assert infer([image], parameters=parameters).status_code == 400


def bytes_tensor(rest: bytes, name: str = "image") -> tuple[bytes, str]:
    entry = {"name": name, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(rest)}}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + rest, str(len(head))


@pytest.mark.parametrize("trailing", [1, 2, 3])
def test_bytes_behind_the_last_entry_are_refused(trailing: int) -> None:
    body, length = bytes_tensor(struct.pack("<I", 2) + b"ab" + b"x" * trailing)
    response = ask(path=INFER, content=body, headers={"Inference-Header-Content-Length": length})
    assert response.status_code == 400
    assert f"{trailing} bytes after its last entry" in response.json()["error"]


def test_a_length_of_thousands_of_digits_is_refused() -> None:
    body, _ = bytes_tensor(b"")
    response = ask(path=INFER, content=body, headers={"Inference-Header-Content-Length": "9" * 5000})
    assert response.status_code == 400
    assert len(response.json()["error"]) < 200


def test_a_name_that_is_no_text_is_refused_with_an_answer() -> None:
    body, length = bytes_tensor(b"\xff\xff\xff\xff", "\ud800")
    response = ask(path=INFER, content=body, headers={"Inference-Header-Content-Length": length})
    assert response.status_code == 400
    assert r"'\ud800'" in response.json()["error"]


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "pixels"]),
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32", ""]),
        "shape": st.lists(st.integers(-2, 2**40), max_size=4),
        "data": st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=5),
        "parameters": st.dictionaries(
            st.just("binary_data_size"), st.one_of(st.integers(-5, 40), st.text()), max_size=1
        ),
    },
)


@given(st.lists(ENTRIES, max_size=2), st.binary(max_size=40), st.one_of(st.none(), st.integers(-3, 200)))
def test_whatever_is_sent_is_read_or_refused(entries: list[Any], rest: bytes, length: int | None) -> None:
    head = json.dumps({"inputs": entries}).encode()
    try:
        parse_request(head + rest, str(len(head) if length is None else length))
    except Problem as problem:
        assert problem.code == "bad_body"
