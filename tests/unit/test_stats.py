"""What is counted in a shard set, and the page that shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raypose.data import stats as stats_module
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.shard_set import ShardSet
from raypose.data.spread import Spread
from raypose.data.stats import PLACE_CELLS, collect_stats
from raypose.data.stats_page import render_stats
from raypose.data.synth import synthesize
from raypose.errors import ShardCorruptError
from raypose.structures import COCO_PERSON, Sample


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(synthesize(24, seed=5, size_px=96))


@pytest.fixture(scope="module")
def shard_set(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = tmp_path_factory.mktemp("stats") / "set"
    build_shard_set(source_of(samples, COCO_PERSON, ("person", "<b>dog</b>")), str(out), shard_bytes=30_000)
    return ShardSet.open(str(out))


def test_totals_do_not_depend_on_how_many_images_are_added_at_a_time(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = collect_stats(shard_set)
    monkeypatch.setattr(stats_module, "_BATCH", 5)
    heard: list[int] = []
    in_parts = collect_stats(shard_set, heard.append)
    assert heard == [5, 10, 15, 20, 24]
    assert in_parts.to_dict() == at_once.to_dict()
    np.testing.assert_array_equal(in_parts.places_KHW, at_once.places_KHW)
    np.testing.assert_array_equal(in_parts.image_sizes_HW, at_once.image_sizes_HW)


def test_every_figure_is_what_counting_by_hand_gives(samples: list[Sample], shard_set: ShardSet) -> None:
    stats = collect_stats(shard_set)
    labelled = [person for sample in samples for person in np.flatnonzero(~sample.people.ignore_N)]
    keypoints = np.concatenate([sample.people.keypoints_NK3 for sample in samples])
    assert stats.images == 24
    assert stats.labelled_people == len(labelled) == sum(stats.people_per_class.values())
    assert stats.people_per_image == {
        count: number for count in range(20) if (number := sum(len(sample.people) == count for sample in samples))
    }
    assert [item.visible for item in stats.keypoints] == (keypoints[..., 2] == 2).sum(axis=0).tolist()
    assert stats.image_width_px[1.0] == max(sample.width for sample in samples)
    assert stats.image_sizes_HW.sum() == 24 and sum(stats.box_sizes.counts) == len(labelled)
    # Drawn people's boxes hold all their keypoints, so every labelled one is in the grid, and none in its margin.
    assert stats.places_KHW.sum() == (keypoints[..., 2] > 0).sum()
    margin = PLACE_CELLS // 6 - 1
    assert stats.places_KHW[:, :margin].sum() == stats.places_KHW[:, :, :margin].sum() == 0


def test_json_holds_figures_and_no_grids(shard_set: ShardSet) -> None:
    raw = json.loads(json.dumps(collect_stats(shard_set).to_dict()))
    assert raw["keypoints"][0].keys() == {"name", "unlabelled", "hidden", "visible"}
    assert "places_KHW" not in raw and "box_size_px" in raw


def test_a_class_that_the_set_does_not_have_is_named_with_its_sample(
    samples: list[Sample], tmp_path: Path, shard_set: ShardSet
) -> None:
    build_shard_set(source_of(samples, COCO_PERSON, ("person", "dog", "cat")), str(tmp_path / "set"))
    opened = ShardSet.open(str(tmp_path / "set"))
    crowded = next(sample for sample in samples if len(sample.people))
    people = replace(crowded.people, class_N=np.full(len(crowded.people), 10**15))
    with pytest.raises(ShardCorruptError, match=f"{crowded.id}: person 0: a class outside"):
        list(stats_module._labels([replace(crowded, people=people)], len(opened.class_names)))


@given(hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(0.01, 1e6)), st.floats(0, 1))
def test_quantiles_of_a_spread_are_within_half_a_percent(values_N: np.ndarray, share: float) -> None:
    spread = Spread()
    for part in np.array_split(values_N, 3):
        spread.add(part)
    # Where share times count is a whole number but for rounding, either neighbour is right.
    around = [min(max(share + rounding, 0.0), 1.0) for rounding in (-1e-9, 1e-9)]
    lowest, highest = np.quantile(values_N, around, method="inverted_cdf")
    assert lowest * 0.995 <= spread.quantiles([share])[share] <= highest * 1.005
    assert spread.quantiles([0.0, 1.0]) == {0.0: values_N.min(), 1.0: values_N.max()}
    edges, counts = spread.histogram(4)
    assert sum(counts) == len(values_N) and len(edges) == len(counts) + 1
    assert edges[0] <= values_N.min() and values_N.max() <= edges[-1]


class Page(HTMLParser):
    """Headings, and everything in a page that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.captions: list[str] = []
        self._is_caption = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._is_caption = tag == "figcaption"

    def handle_data(self, data: str) -> None:
        if self._is_caption:
            self.captions.append(data)
        self._is_caption = False


def test_the_page_has_a_plot_of_everything_and_fetches_nothing(shard_set: ShardSet) -> None:
    text = render_stats(collect_stats(shard_set), "my <set>")
    page = Page(text)
    assert page.captions[:5] == ["People per image", "Box sizes", "Image sizes", "Classes", "Visibility"]
    assert page.captions[5:] == [name.replace("_", " ") for name in COCO_PERSON.names]
    assert all(address.startswith("data:") for address in page.addresses)
    assert "<script" not in text and "url(" not in text
    assert "my &lt;set&gt;" in text and "<b>dog" not in text
    assert text.count("<svg") == 5 + COCO_PERSON.keypoints


def test_a_set_of_one_image_has_a_page(samples: list[Sample], tmp_path: Path) -> None:
    crowded = next(sample for sample in samples if len(sample.people))
    build_shard_set(source_of([crowded], COCO_PERSON, ("person",)), str(tmp_path / "set"))
    text = render_stats(collect_stats(ShardSet.open(str(tmp_path / "set"))), "one")
    assert "nan" not in text.lower()
