"""The page of findings in a real browser: pictures and all, it asks nobody for anything and fits a phone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.lint import lint_set
from raypose.data.lint.page import render_findings
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON
from tests.browser.chromium import Listener, browse, needs_chromium

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lint")
    samples = list(synthesize(12, seed=1, size_px=96))
    samples += [replace(sample, id=f"a-copy-with-a-long-name/{sample.id}") for sample in samples[:9]]
    build_shard_set(source_of(samples, COCO_PERSON, ("person",)), str(folder / "set"))
    opened = ShardSet.open(str(folder / "set"))
    page = folder / "index.html"
    page.write_text(render_findings(list(lint_set(opened)), opened, None, "a set"), encoding="utf-8")
    return page


def test_the_page_shows_its_pictures_without_console_messages_or_requests(page: Path, tmp_path: Path) -> None:
    with Listener(page.read_bytes()) as listener:
        done = browse(tmp_path / "profile", "--dump-dom", f"{listener.address}/index.html")
    assert done.stdout.count("<img") == 9 and "Duplicates" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert listener.asked == ["/index.html"]


def test_nothing_sticks_out_of_a_phone(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "phone.png"
    browse(tmp_path / "profile", "--window-size=500,2400", f"--screenshot={shot}", page.as_uri())
    pixels = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    assert np.unique(pixels[:, -4]).size == 1
    assert pixels.std() > 5
