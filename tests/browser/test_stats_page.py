"""The statistics page in a real browser: it renders, says nothing on the console and asks nobody for anything."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.shard_set import ShardSet
from raypose.data.stats import collect_stats
from raypose.data.stats_page import render_stats
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON
from tests.browser.chromium import Listener, browse, needs_chromium

pytestmark = needs_chromium
HEIGHT_PX = 3000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stats")
    build_shard_set(source_of(synthesize(30, seed=1, size_px=96), COCO_PERSON, ("person",)), str(folder / "set"))
    page = folder / "stats.html"
    page.write_text(render_stats(collect_stats(ShardSet.open(str(folder / "set"))), "a set"), encoding="utf-8")
    return page


def test_the_page_renders_without_console_messages_or_requests(page: Path, tmp_path: Path) -> None:
    with Listener(page.read_bytes()) as listener:
        done = browse(tmp_path / "profile", "--dump-dom", f"{listener.address}/stats.html")
    assert "Where keypoints lie" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert listener.asked == ["/stats.html"]


@pytest.mark.parametrize(
    ("name", "width_px", "dark"), [("light", 1200, False), ("dark", 1200, True), ("phone", 500, False)]
)
def test_the_page_fills_the_window_in_its_colours(
    page: Path, tmp_path: Path, name: str, width_px: int, dark: bool
) -> None:
    shot = tmp_path / f"{name}.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    size = f"--window-size={width_px},{HEIGHT_PX}"
    browse(tmp_path / "profile", size, *scheme, f"--screenshot={shot}", page.as_uri())
    pixels = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == (HEIGHT_PX, width_px)
    assert (np.median(pixels) < 60) == dark
    # Nothing may stick out of the right margin: that column shows only the page's own colour.
    assert np.unique(pixels[:, -4]).size == 1
    assert pixels.std() > 5


def test_printing_gives_a_document_of_a_few_sheets(page: Path, tmp_path: Path) -> None:
    printed = tmp_path / "stats.pdf"
    browse(tmp_path / "profile", f"--print-to-pdf={printed}", "--no-pdf-header-footer", page.as_uri())
    content = printed.read_bytes()
    assert content.startswith(b"%PDF") and 1 <= content.count(b"/Type /Page\n") <= 6
