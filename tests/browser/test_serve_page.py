"""The page of the service in a real browser: an image in, the skeleton seen, thresholds moved."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import uvicorn

from raypose.serve.http import create_app
from raypose.serve.metrics import ServeMetrics
from raypose.serve.models import Library, Wanted
from raypose.serve.service import Service
from tests.browser.chromium import needs_chromium
from tests.browser.devtools import Browser
from tests.serve_fakes import Shelves, config_for
from tests.unit.test_serve_http import red_square

pytestmark = needs_chromium

_SQUARE = red_square(320, 200, box=(80, 40, 240, 160))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A service that finds red squares, on a free port of this machine."""
    shelves = Shelves()
    shelves.add("a")
    config = config_for("a")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # or who asks before the server runs is refused
    started, servers = threading.Event(), []

    async def serve() -> None:
        service = Service(config, Library(config.compute, shelves.open, shelves.locate), ServeMetrics("r0"))
        await service.change(Wanted("a"))
        server = uvicorn.Server(uvicorn.Config(create_app(service), log_level="error"))
        servers.append(server)
        started.set()
        await server.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(30)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    servers[0].should_exit = True
    thread.join(30)


@pytest.fixture
def browser(address: str, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=f"{address}/")
        browser.wait_for(
            "document.readyState === 'complete' && document.getElementById('model').textContent.length > 3"
        )
        yield browser


def give(browser: Browser, how: str, content: bytes = _SQUARE) -> None:
    """An image as a user gives it: chosen, dropped or pasted."""
    text = base64.b64encode(content).decode()
    browser.evaluate(f"""{{
        const bytes = Uint8Array.from(atob("{text}"), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], "square.png", {{ type: "image/png" }}));
        if ("{how}" === "choose") {{
            document.getElementById("file").files = files.files;
            document.getElementById("file").dispatchEvent(new Event("change"));
        }} else if ("{how}" === "drop") {{
            document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer: files, bubbles: true }}));
        }} else {{
            document.body.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: files, bubbles: true }}));
        }}
    }}""")


def status(browser: Browser) -> str:
    return str(browser.evaluate("document.getElementById('status').textContent"))


@pytest.mark.parametrize("how", ["choose", "drop", "paste"])
def test_an_image_shows_its_skeleton_its_table_and_its_latency(browser: Browser, how: str) -> None:
    give(browser, how)
    browser.wait_for("document.getElementById('rows').children.length")
    assert status(browser).startswith("1 person, 320 × 200 pixels. Model ")
    cells = browser.evaluate("[...document.querySelectorAll('#rows > tr > *')].map((cell) => cell.textContent)")
    assert cells == ["1", "person", "0.90", "80, 40, 240, 160", "1 of 2"]
    shown = browser.evaluate("document.getElementById('canvas').toDataURL('image/png')").partition(",")[2]
    canvas = cv2.imdecode(np.frombuffer(base64.b64decode(shown), np.uint8), cv2.IMREAD_COLOR)
    assert canvas is not None
    assert canvas.shape == (200, 320, 3)
    upper_edge = canvas[38:42, 100:220, 1].max(axis=0)  # green is in the box that is drawn, and nowhere in the image
    assert (upper_edge > 80).all()


def test_a_threshold_that_is_moved_acts_at_once_and_asks_nobody(browser: Browser) -> None:
    give(browser, "choose")
    browser.wait_for("document.getElementById('rows').children.length")
    asked = len(browser.requests)
    for conf, people in (("0.95", 0), ("0.25", 1)):
        browser.evaluate(f"""{{
            document.getElementById('conf').value = '{conf}';
            document.getElementById('conf').dispatchEvent(new Event('input'));
        }}""")
        assert browser.evaluate("document.getElementById('rows').children.length") == people
        assert browser.evaluate("document.getElementById('conf-shown').textContent") == conf
    assert len(browser.requests) == asked


def test_the_page_asks_nobody_but_the_service_and_the_console_stays_silent(browser: Browser, address: str) -> None:
    give(browser, "drop")
    browser.wait_for("document.getElementById('rows').children.length")
    assert {url.removeprefix(address).partition("?")[0] for url in browser.requests if not url.startswith("data:")} == {
        "/", "/page.css", "/page.js", "/v1/models", "/v1/predict",
    }  # fmt: skip
    assert browser.complaints == []


def test_an_image_that_is_refused_says_why(browser: Browser) -> None:
    give(browser, "choose", b"<svg/>")
    browser.wait_for("document.getElementById('status').textContent.includes('unsupported_image')")


def test_everything_is_reached_by_keyboard_has_a_name_and_fits_a_phone(browser: Browser) -> None:
    browser.resize(360, 780)
    give(browser, "choose")
    browser.wait_for("document.getElementById('rows').children.length")
    assert browser.evaluate("document.documentElement.scrollWidth <= 360")
    nameless = """[...document.querySelectorAll('input, button')].filter((control) =>
        !(control.labels && control.labels.length) && !control.textContent.trim()).map((control) => control.id)"""
    assert browser.evaluate(nameless) == []
    assert browser.evaluate("[...document.querySelectorAll('[tabindex]')].every((entry) => entry.tabIndex <= 0)")
    assert browser.evaluate("document.getElementById('canvas').getAttribute('aria-label')").startswith(
        "The image with 1"
    )


CAMERA = """{
    const pixels = document.createElement("canvas");
    pixels.width = pixels.height = 64;
    const pen = pixels.getContext("2d");
    pen.fillRect(0, 0, 64, 64);
    setInterval(() => pen.fillRect(0, 0, 64, 64), 20);  // a canvas that nobody draws on gives no frames
    window.opened = [];
    navigator.mediaDevices.getUserMedia = async () => {
        await new Promise((done) => setTimeout(done, 200));  // until the user has allowed it
        const stream = pixels.captureStream(20);
        window.opened.push(stream);
        return stream;
    };
}"""


def press_camera(browser: Browser) -> None:
    browser.evaluate("document.getElementById('camera').click()")


def test_a_camera_is_opened_once_however_often_the_button_is_pressed_and_closed_for_good(browser: Browser) -> None:
    browser.evaluate(CAMERA)
    press_camera(browser)
    press_camera(browser)  # while the browser asks whether it may
    browser.wait_for("document.getElementById('status').textContent.startsWith('0 people, 64 × 64')")
    assert browser.evaluate("document.getElementById('camera').getAttribute('aria-pressed')") == "true"
    assert browser.evaluate("document.getElementById('status').getAttribute('aria-live')") == "off"
    press_camera(browser)
    assert browser.evaluate("document.getElementById('camera').textContent") == "Use the camera"
    assert browser.evaluate("document.getElementById('status').getAttribute('aria-live')") == "polite"
    live = "window.opened.flatMap((one) => one.getTracks()).filter((track) => track.readyState === 'live').length"
    browser.evaluate("new Promise((done) => setTimeout(done, 400))")
    assert (browser.evaluate("window.opened.length"), browser.evaluate(live)) == (1, 0)


# The browser encodes a frame while the page goes on.
SLOW_ENCODER = """{
    const encode = HTMLCanvasElement.prototype.toBlob;
    HTMLCanvasElement.prototype.toBlob = function (done, ...how) {
        window.encoding = true;
        encode.call(this, (blob) => setTimeout(() => { window.encoding = false; done(blob); }, 500), ...how);
    };
}"""


def test_an_image_that_is_given_takes_the_place_of_the_camera(browser: Browser) -> None:
    browser.evaluate(CAMERA)
    browser.evaluate(SLOW_ENCODER)
    press_camera(browser)
    browser.wait_for("document.getElementById('status').textContent.startsWith('0 people, 64 × 64')")
    browser.wait_for("window.encoding")
    give(browser, "drop")
    browser.wait_for("document.getElementById('rows').children.length")
    browser.evaluate("new Promise((done) => setTimeout(done, 900))")
    assert status(browser).startswith("1 person, 320 × 200 pixels.")
    assert browser.evaluate("document.getElementById('camera').getAttribute('aria-pressed')") == "false"


def test_a_camera_that_is_unplugged_is_off(browser: Browser) -> None:
    browser.evaluate(CAMERA)
    press_camera(browser)
    browser.wait_for("document.getElementById('camera').getAttribute('aria-pressed') === 'true'")
    browser.evaluate("window.opened[0].getTracks()[0].dispatchEvent(new Event('ended'))")
    assert browser.evaluate("document.getElementById('camera').getAttribute('aria-pressed')") == "false"


def test_a_page_that_may_have_no_camera_says_where_there_is_one(browser: Browser) -> None:
    browser.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    press_camera(browser)
    assert status(browser) == "No camera: browsers give it to pages from https:// or localhost alone."


SLOW = """{
    const fetch = window.fetch;
    window.fetch = async (...asked) => {
        await new Promise((done) => setTimeout(done, 300));
        return fetch(...asked);
    };
}"""


def test_an_image_that_is_given_while_another_is_under_way_is_answered_next(browser: Browser) -> None:
    browser.evaluate(SLOW)
    give(browser, "choose", red_square(64, 64, box=(8, 8, 40, 40)))
    give(browser, "paste")
    browser.wait_for("document.getElementById('status').textContent.startsWith('1 person, 320 × 200')")


def test_the_same_file_can_be_chosen_again(browser: Browser) -> None:
    give(browser, "choose", b"<svg/>")
    browser.wait_for("document.getElementById('status').textContent.includes('unsupported_image')")
    assert browser.evaluate("document.getElementById('file').value") == ""


@pytest.mark.parametrize("path", ["v1/models", "v1/predict"])
def test_what_a_proxy_says_in_its_own_words_is_shown(browser: Browser, path: str) -> None:
    browser.evaluate(f"""{{
        const fetch = window.fetch;
        window.fetch = (url, ...more) => url.startsWith("{path}")
            ? Promise.resolve(new Response("Too busy", {{ status: 429, statusText: "Too Many Requests" }}))
            : fetch(url, ...more);
        document.getElementById("key").dispatchEvent(new Event("change"));
    }}""")
    if path == "v1/predict":
        give(browser, "choose")
    browser.wait_for("document.getElementById('status').textContent.includes('429 Too Many Requests')")
