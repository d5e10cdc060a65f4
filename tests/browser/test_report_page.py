"""The report in a real browser: it renders, says nothing on the console and asks nobody for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raypose.evaluate import evaluate
from raypose.evaluate.report import Gallery, Picture, ReportInput, write_report
from raypose.structures import COCO_PERSON, ImageResult, People, Poses
from tests.browser.chromium import Listener, browse, needs_chromium

pytestmark = needs_chromium

_TALL_PX = 6000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    results = []
    for number in range(8):
        xy_NK2 = rng.uniform(20, 180, (2, 17, 2))
        box_xyxy_N4 = np.concatenate([xy_NK2.min(axis=1), xy_NK2.max(axis=1)], axis=1).astype(np.float32)
        visibility_NK1 = rng.integers(0, 3, (2, 17, 1))
        nobody, zeros = np.zeros(2, np.bool_), np.zeros(2, np.int64)
        keypoints_NK3 = np.concatenate([xy_NK2, visibility_NK1], axis=2).astype(np.float32)
        people = People(box_xyxy_N4, keypoints_NK3, zeros, np.full(2, np.nan, np.float32), nobody, nobody)
        noise_NK3 = np.concatenate([rng.normal(0, 4, (2, 17, 2)), visibility_NK1 * 0], axis=2).astype(np.float32)
        poses = Poses(box_xyxy_N4, np.array([0.9, 0.4], np.float32), zeros, keypoints_NK3 + noise_NK3)
        results.append(ImageResult(str(number), 200, 200, people, poses))
    history: list[dict[str, Any]] = [
        {
            "epoch": e,
            "train/pose_loss": 5 / e,
            "val/pose_ap": 1 - 1 / e,
            "val/box_ap": 0.9 - 0.8 / e,
            "lr/pg0": 0.001 / e,
        }
        for e in range(1, 13)
    ]
    image = cv2.imencode(".png", rng.integers(0, 255, (120, 160, 3), np.uint8))[1].tobytes()
    run = ReportInput(
        "a run", "for the browser", {"Workers": "2"}, evaluate(results, COCO_PERSON, ["person"]), history,
        {"pose_ap": 0.9, "images": 8.0},
        [Gallery("Worst", "", (Picture("one", image, image), Picture("two", image, image)))],
    )  # fmt: skip
    return write_report(run, tmp_path_factory.mktemp("report"))


def test_the_page_renders_without_console_messages_or_requests(page: Path, tmp_path: Path) -> None:
    with Listener(page.read_bytes()) as listener:
        done = browse(tmp_path / "profile", "--dump-dom", f"{listener.address}/index.html")
    assert "Placing keypoints" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert listener.asked == ["/index.html"]


def test_the_page_forbids_requests_and_a_forbidden_one_would_be_on_the_console(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("</main>", '<img src="/outside.png"></main>')
    with Listener(text.encode()) as listener:
        done = browse(tmp_path / "profile", "--dump-dom", f"{listener.address}/index.html")
    assert "CONSOLE" in done.stderr
    assert listener.asked == ["/index.html"]


@pytest.mark.parametrize(("name", "width_px", "dark"), [("light", 1200, False), ("dark", 1200, True)])
def test_the_page_fills_the_window_in_its_colours(
    page: Path, tmp_path: Path, name: str, width_px: int, dark: bool
) -> None:
    shot = tmp_path / f"{name}.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    size = f"--window-size={width_px},{_TALL_PX}"
    browse(tmp_path / "profile", size, *scheme, f"--screenshot={shot}", page.as_uri())
    pixels = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == (_TALL_PX, width_px)
    assert (np.median(pixels) < 60) == dark
    # Nothing may stick out of the right margin: that column shows only the page's own colour.
    assert np.unique(pixels[:, -4]).size == 1
    assert pixels.std() > 5


@pytest.mark.parametrize("width_px", [390, 320])
def test_nothing_sticks_out_on_a_phone(page: Path, tmp_path: Path, width_px: int) -> None:
    # A window of Chromium is never narrower than 500 px; a frame in it can be.
    frame = tmp_path / "frame.html"
    style = f"border: 0; width: {width_px}px; height: {_TALL_PX}px"
    frame.write_text(f'<body style="margin: 0"><iframe src="{page.as_uri()}" style="{style}"></iframe>')
    shot = tmp_path / "phone.png"
    size = f"--window-size=500,{_TALL_PX}"
    browse(tmp_path / "profile", size, f"--screenshot={shot}", "--allow-file-access-from-files", frame.as_uri())
    pixels = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    assert np.unique(pixels[:, width_px - 4]).size == 1
    assert pixels[:, : width_px - 10].std() > 5


def test_the_page_can_be_printed(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    browse(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert 3 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") <= 12
