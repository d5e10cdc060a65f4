"""The page of a sweep in a real browser: it renders, says nothing on the console and asks nobody for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raypose.storage.local import LocalStore
from raypose.tune.controller import Controller
from raypose.tune.records import SweepState
from raypose.tune.report import render_sweep
from tests.browser.chromium import Listener, browse, needs_chromium
from tests.simulated_trials import SimulatedTrials, simulated_sweep

pytestmark = needs_chromium
HEIGHT_PX = 3400
SWEEPS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "early_stops": (
        {
            "scheduler": {"use": "asha", "min_epochs": 1, "reduction": 2},
            "space": {
                "train.optimizer": {"choice": ["AdamW", "SGD"]},
                "train.lr0": {"loguniform": [1e-3, 1e-1]},
                "train.momentum": {"uniform": [0.8, 0.95], "when": {"train.optimizer": "SGD"}},
            },
            "budget": {"trials": 12},
        },
        ("Cost against quality", "Parameters one by one", "rung of epoch 1"),
    ),
    "population": (
        {"scheduler": {"use": "pb2", "every_epochs": 2}, "budget": {"trials": 4}},
        ("Lineage", "took over from", "Weights, SHA-256"),
    ),
    "front": ({"against": {"latency_ms": "min"}}, ("Front", "pose_ap against latency_ms")),
}


@pytest.fixture(scope="module", params=SWEEPS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    settings, words = SWEEPS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    sweep, store, runner = simulated_sweep(folder, **settings), LocalStore(folder / "sweep"), SimulatedTrials()
    controller = Controller(
        sweep, store, runner, slots=1, state=SweepState(), watch=runner.watch,
        costs=lambda run: {"latency_ms": 1.0 + 100 * run.train.lr0},
    )  # fmt: skip
    state, trials = controller.run()
    page = folder / "report.html"
    page.write_text(render_sweep(sweep, state, trials, store.url), encoding="utf-8")
    return page, words


def test_the_page_renders_without_console_messages_or_requests(
    page: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    path, words = page
    with Listener(path.read_bytes()) as listener:
        done = browse(tmp_path / "profile", "--dump-dom", f"{listener.address}/report.html")
    assert [word for word in words if word not in done.stdout] == []
    assert "CONSOLE" not in done.stderr
    assert listener.asked == ["/report.html"]


@pytest.mark.parametrize(("width_px", "dark"), [(1200, False), (500, True)], ids=["light", "phone_dark"])
def test_the_page_fills_the_window_in_its_colours(
    page: tuple[Path, tuple[str, ...]], tmp_path: Path, width_px: int, dark: bool
) -> None:
    shot = tmp_path / "page.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    size = f"--window-size={width_px},{HEIGHT_PX}"
    browse(tmp_path / "profile", size, *scheme, f"--screenshot={shot}", page[0].as_uri())
    pixels = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == (HEIGHT_PX, width_px)
    assert (np.median(pixels) < 60) == dark
    # Nothing may stick out of the right margin: that column shows only the page's own colour.
    assert np.unique(pixels[:, -4]).size == 1
    assert pixels.std() > 5
