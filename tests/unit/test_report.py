"""What the report page says, whatever parts it is given."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from raypose.errors import DataError
from raypose.evaluate import Evaluation, evaluate
from raypose.evaluate.report import Picture, ReportInput, describe_fit, render_report, write_report
from raypose.pages.charts import Bars, Line, bar_chart, line_chart
from raypose.pages.svg import ticks
from raypose.structures import ImageResult, People, Poses, Skeleton

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060f80f000104010"
    "05fe5c34b0000000049454e44ae426082"
)


def small_evaluation(sigmas: tuple[float, ...] | None = (0.05, 0.05)) -> Evaluation:
    people = People(
        np.array([[0, 0, 100, 100]], np.float32),
        np.array([[[10, 10, 2], [60, 60, 1]]], np.float32),
        np.zeros(1, np.int64),
        np.array([5000], np.float32),
        np.array([False]),
        np.array([False]),
    )
    poses = Poses(
        people.box_xyxy_N4, np.array([0.7], np.float32), np.zeros(1, np.int64), people.keypoints_NK3 + np.float32(1)
    )
    skeleton = Skeleton(names=("left_hand", "right<hand>"), sigmas=sigmas)
    return evaluate([ImageResult("1", 200, 200, people, poses)], skeleton, ["person"])


def epochs(ap: list[float], loss: list[float]) -> list[dict[str, Any]]:
    return [
        {"kind": "val", "epoch": i + 1, "train/pose_loss": loss[i], "val/pose_ap": ap[i], "lr/pg0": 0.01}
        for i in range(len(ap))
    ]


class Outside(HTMLParser):
    """Everything in a page that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_a_full_page_has_every_section_and_fetches_nothing(tmp_path: Path) -> None:
    history = epochs([0.1, 0.3, 0.4], [3.0, 2.0, 1.5])
    run = ReportInput(
        "run-7", "subtitle", {"Workers": "2"}, small_evaluation(), history, [Picture("im1.jpg", PNG, PNG)]
    )
    page = write_report(run, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "report" / "index.html"
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Training", "Finding people", "Placing keypoints", "Pictures", "All figures",
    ]  # fmt: skip
    parser = Outside()
    parser.feed(text)
    assert parser.addresses
    assert all(address.startswith("data:") for address in parser.addresses)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_a_validation_without_training_has_a_page_too() -> None:
    text = render_report(ReportInput("val", evaluation=small_evaluation()))
    assert "Finding people" in text
    assert "<h2>Training" not in text
    assert "<h2>Pictures" not in text


def test_a_run_without_validation_has_a_page_too() -> None:
    text = render_report(ReportInput("run", history=epochs([0.1], [2.0])))
    assert "<h2>Training" in text
    assert "Placing keypoints" not in text


def test_names_from_outside_are_escaped_everywhere() -> None:
    text = render_report(
        ReportInput("<b>&", "<i>", {"<u>": "<s>"}, small_evaluation(), pictures=[Picture('"><img>', PNG, PNG)])
    )
    assert not re.search(r"<(b|i|u|s|hand)>", text)
    assert "right&lt;hand&gt;" in text


def test_missing_sigmas_are_shown_on_the_page() -> None:
    with pytest.warns(UserWarning, match="no OKS sigmas"):
        evaluation = small_evaluation(sigmas=None)
    assert "Skeleton of 2 keypoints has no OKS sigmas" in render_report(ReportInput("val", evaluation=evaluation))


def test_undefined_figures_are_a_dash() -> None:
    assert "<dt>pose_ap_l</dt><dd>–</dd>" in render_report(ReportInput("val", evaluation=small_evaluation()))


def test_a_picture_that_is_no_picture_is_refused() -> None:
    with pytest.raises(DataError, match=r"'im1\.jpg': starts with b'GIF8', expected PNG or JPEG"):
        render_report(ReportInput("val", pictures=[Picture("im1.jpg", PNG, b"GIF89a")]))


@pytest.mark.parametrize(
    ("ap", "loss", "verdict"),
    [
        ([0.1, 0.2, 0.3, 0.4], [4, 3, 2, 1], "more epochs may help"),
        ([0.1, 0.4, 0.3, 0.2], [4, 3, 2, 1], "overfits"),
        ([0.1, 0.4, 0.395, 0.395], [4, 3, 2, 1], "levelled off"),
        ([0.1, 0.4, 0.3, 0.2], [4, 3, 3.5, 4], "levelled off"),
        ([0.1, math.nan, 0.3], [4, 3, 2], None),
    ],
)
def test_the_fit_is_described_by_ap_and_training_loss(ap: list[float], loss: list[float], verdict: str | None) -> None:
    sentence = describe_fit(epochs(ap, loss))
    assert sentence == "" if verdict is None else verdict in sentence


def test_charts_are_well_formed_and_leave_gaps_where_nothing_is_known() -> None:
    line = Line("a & b", [0, 1, 2, 3], [0.0, 1.0, math.nan, 2.0])
    svg = ElementTree.fromstring(line_chart([line], x_label="<x>", y_label="y"))
    path = svg.find("path[@class='curve tone1']")
    assert path is not None
    assert path.attrib["d"].count("M") == 2
    assert len(svg.findall("circle")) == 3
    bars = bar_chart(["one", "two"], [Bars("share", [0.5, math.nan])], x_label="x", x_range=(0, 1))
    assert len(ElementTree.fromstring(bars).findall("rect")) == 1


def test_charts_of_nothing_and_of_constants_can_be_drawn() -> None:
    for values in ([], [math.nan], [0.0], [5.0, 5.0], [1e-7, 2e-7]):
        ElementTree.fromstring(line_chart([Line("a", range(len(values)), values)], x_label="x", y_label="y"))
    ElementTree.fromstring(bar_chart(["a"], [Bars("b", [math.nan])], x_label="x"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 13, [0, 5, 10, 15]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_and_enclose_the_data(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, beyond=True) == expected


def test_epoch_ticks_are_whole() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3]
