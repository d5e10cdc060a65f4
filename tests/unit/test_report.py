"""What the report page says, whatever parts it is given."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from raypose.errors import DataError
from raypose.evaluate import Evaluation, Figure, evaluate
from raypose.evaluate.fit import describe_course, describe_gap
from raypose.evaluate.report import Gallery, Picture, ReportInput, render_report, write_report
from raypose.pages.charts import Bars, Line, bar_chart, line_chart
from raypose.pages.svg import ticks
from raypose.structures import ImageResult, People, Poses, Skeleton

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060f80f000104010"
    "05fe5c34b0000000049454e44ae426082"
)


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
# After Machado and others, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1.
COLOUR_BLIND = {
    "full": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritanopia": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


def linear_rgb(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], LUMINANCE, [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


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


def gallery(*pictures: Picture) -> Gallery:
    return Gallery("Worst", "The lowest scores.", pictures)


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
        "run-7", "subtitle", {"Workers": "2"}, small_evaluation(), history, {"pose_ap": 0.9, "images": 8.0},
        [gallery(Picture("im1.jpg", PNG, PNG, "score 0.10"))],
    )  # fmt: skip
    page = write_report(run, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "report" / "index.html"
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Training", "Finding people", "Placing keypoints", "What goes wrong", "Pictures", "All figures",
    ]  # fmt: skip
    parser = Outside()
    parser.feed(text)
    assert parser.addresses
    assert all(address.startswith(("data:", "#")) for address in parser.addresses)
    assert {address[1:] for address in parser.addresses if address.startswith("#")} == set(
        re.findall(r'id="(.*?)"', text)
    )
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
        ReportInput(
            "<b>&", "<i>", {"<u>": "<s>"}, small_evaluation(), galleries=[gallery(Picture('"><img>', PNG, PNG))]
        )
    )
    assert not re.search(r"<(b|i|u|s|hand)>", text)
    assert "right&lt;hand&gt;" in text


def test_missing_sigmas_are_shown_on_the_page() -> None:
    with pytest.warns(UserWarning, match="no OKS sigmas"):
        evaluation = small_evaluation(sigmas=None)
    assert "Skeleton of 2 keypoints has no OKS sigmas" in render_report(ReportInput("val", evaluation=evaluation))


def test_undefined_figures_are_a_dash() -> None:
    assert "<dt>pose_ap_l</dt><dd>–</dd>" in render_report(ReportInput("val", evaluation=small_evaluation()))


def test_a_page_on_a_model_that_finds_nobody_speaks_of_no_nan() -> None:
    people = People.empty(2)
    somebody = People(
        np.array([[0, 0, 9, 9]], np.float32), np.array([[[1, 1, 2], [8, 8, 2]]], np.float32), np.zeros(1, np.int64),
        np.array([81], np.float32), np.array([False]), np.array([False]),
    )  # fmt: skip
    skeleton = Skeleton(("a", "b"), sigmas=(0.1, 0.1))
    for labelled in (people, somebody):
        evaluation = evaluate([ImageResult("1", 20, 20, labelled, Poses.empty(2))], skeleton, ["person"])
        assert not re.search(r"\bnan\b", render_report(ReportInput("val", evaluation=evaluation)))


def test_a_picture_that_is_no_picture_is_refused() -> None:
    with pytest.raises(DataError, match=r"'im1\.jpg': starts with b'GIF8', expected PNG, JPEG or SVG"):
        render_report(ReportInput("val", galleries=[gallery(Picture("im1.jpg", PNG, b"GIF89a"))]))


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
    sentence = describe_course(epochs(ap, loss))
    assert sentence == "" if verdict is None else verdict in sentence


@pytest.mark.parametrize(
    ("trained", "unseen", "verdict"),
    [
        (0.9, 0.5, "44% of it does not carry over"),
        (0.2, 0.2, "underfits"),
        (0.03, 0.01, "underfits"),
        (0.8, 0.78, "carries over"),
        (0.0, 0.0, "underfits"),
    ],
)
def test_the_gap_between_training_and_validation_images_is_put_in_words(
    trained: float, unseen: float, verdict: str
) -> None:
    assert verdict in describe_gap({"pose_ap": trained}, {"pose_ap": unseen})


def test_nothing_is_said_of_a_gap_that_is_not_known() -> None:
    assert describe_gap({}, {"pose_ap": 0.5}) == ""
    assert describe_gap({"pose_ap": math.nan}, {"pose_ap": 0.5}) == ""


def test_losses_of_a_long_run_are_averaged_to_as_many_points_as_can_be_seen() -> None:
    steps = [{"kind": "train", "epoch": step / 100, "train/pose_loss": float(step % 2)} for step in range(10_000)]
    text = render_report(ReportInput("run", history=steps))
    path = re.search(r'<path class="curve tone1" d="(.*?)"', text)
    assert path is not None
    assert 100 < path[1].count("L") < 200
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]
    assert max(heights) - min(heights) < 20  # of 200: unthinned, the curve would fill the chart


def test_confused_classes_are_shown_where_there_are_several() -> None:
    skeleton = Skeleton(names=("a",), sigmas=(0.1,))
    box_xyxy_N4, nobody = np.array([[0, 0, 50, 50]], np.float32), np.array([False])
    keypoints_NK3 = np.array([[[5, 5, 2]]], np.float32)
    people = People(box_xyxy_N4, keypoints_NK3, np.array([1]), np.array([900], np.float32), nobody, nobody)
    poses = Poses(box_xyxy_N4, np.array([0.9], np.float32), np.array([0]), keypoints_NK3)
    evaluation = evaluate([ImageResult("1", 90, 90, people, poses)], skeleton, ["person", "robot"])
    assert "Taken for one another" in render_report(ReportInput("val", evaluation=evaluation))
    assert "Taken for one another" not in render_report(ReportInput("val", evaluation=small_evaluation()))


def test_what_validators_drew_is_on_the_page() -> None:
    evaluation = replace(small_evaluation(), figures=(Figure("Error <by> hand", b"<svg></svg>"),))
    text = render_report(ReportInput("val", evaluation=evaluation))
    assert 'src="data:image/svg+xml;base64,' in text
    assert "Error &lt;by&gt; hand" in text


def test_long_names_of_rows_are_shortened_and_kept_as_a_tip() -> None:
    name = "left_middle_finger_metacarpophalangeal_joint"
    svg = ElementTree.fromstring(bar_chart([name], [Bars("b", [0.5])], x_label="x", x_range=(0, 1)))
    label = next(text for text in svg.findall("text") if text.attrib["class"] == "name")
    assert label.findtext("title") == name.replace("_", " ")
    assert (label[0].tail or "").endswith("…")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", [*COLOUR_BLIND])
def test_colours_of_curves_can_be_told_apart_with_any_colour_sight(theme: str, sight: str) -> None:
    css = (files("raypose.pages") / "templates" / "page.css").read_text(encoding="utf-8")
    start = 0 if theme == "light" else css.index("prefers-color-scheme: dark")
    tones = re.findall(r"--tone[1-5]: (#\w{6})", css[start:])[:5]
    seen = [lab(COLOUR_BLIND[sight] @ linear_rgb(tone)) for tone in tones]
    assert len(seen) == 5
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 10
    tones += re.findall(r"--tone0: (#\w{6})", css[start:])[:1]
    paper = 1.0 if theme == "light" else float(linear_rgb("#171b21") @ LUMINANCE)
    for tone in tones:
        darker, lighter = sorted((paper, float(linear_rgb(tone) @ LUMINANCE)))
        assert (lighter + 0.05) / (darker + 0.05) >= 3.0  # WCAG 2.1, 1.4.11


def test_a_colour_is_the_same_in_a_legend_as_in_its_chart() -> None:
    css = (files("raypose.pages") / "templates" / "page.css").read_text(encoding="utf-8")
    rules = re.findall(r"([^{}]*tone\d[^{}]*)\{([^{}]*)\}", css)
    colours = [rule for _, rule in rules if re.search(r"\b(color|background|stroke|fill):", rule)]
    assert colours == [f" color: var(--tone{tone}); " for tone in range(6)]


@pytest.mark.parametrize("best", [0.0, 0.3, 0.55, 0.8, 1.0])
def test_the_label_of_a_mark_hides_no_curve(best: float) -> None:
    x = [step / 100 for step in range(101)]
    rates = [("precision", [0.6 + 0.4 * at for at in x]), ("recall", [1 - 0.8 * at**8 for at in x])]
    lines = [Line(name, x, y) for name, y in rates]
    mark = (best, "best F1 0.92 at 0.55")
    chart = line_chart(lines, x_label="x", y_label="y", x_range=(0, 1), y_range=(0, 1), mark=mark, legend=False)
    svg = ElementTree.fromstring(chart)
    label = next(text for text in svg.findall("text") if text.attrib["class"] == "mark-label")
    left, y = float(label.attrib["x"]), float(label.attrib["y"])
    left -= 120 if label.attrib["text-anchor"] == "end" else 0
    assert left > 50 and left + 120 < 420
    for path in svg.findall("path"):
        places = [tuple(map(float, place.split())) for place in re.split("[ML]", path.attrib["d"])[1:]]
        assert not [place for place in places if left <= place[0] <= left + 120 and y - 10 <= place[1] <= y + 3]


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
