"""Requests that are not like the reference set are told, those that are like it are not."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.serve.drift import Drift, Look, Population, places_of, stability_index
from raypose.serve.models import Wanted
from raypose.structures import People, Poses, Sample
from tests.serve_fakes import SPEC, Shelves, config_for, run, serving
from tests.unit.test_serve_http import waiting

Counts = st.integers(2, 20).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 1000), min_size=bins, max_size=bins).filter(any)] * 2)
)
"""Those of two populations in the same bins."""


def look(scores: tuple[float, ...], width: int, height: int) -> Look:
    score_N = np.asarray(scores, np.float32)
    poses = replace(Poses.empty(2), score_N=score_N)
    return Look.of(width * height, poses)


@given(Counts)
def test_the_index_is_symmetric_never_negative_and_0_for_equal_shares(counts: tuple[list[int], list[int]]) -> None:
    found, expected = (np.asarray(one, float) for one in counts)
    index = stability_index(found, expected)
    assert index >= 0
    assert index == pytest.approx(stability_index(expected, found))
    assert stability_index(found, found) == 0


def test_the_index_of_two_bins_is_that_of_the_formula() -> None:
    assert stability_index(np.array([75.0, 25.0]), np.array([5.0, 15.0])) == pytest.approx(0.5 * np.log(3.0) * 2)


def test_only_the_newest_images_count() -> None:
    usual, other = look((0.9, 0.8), 640, 480), look((), 64, 64)
    drift = Drift(Population([usual] * 50), window=10)

    def indices() -> list[float]:
        found = drift.indices()
        assert found
        return list(found.values())

    for _ in range(9):
        drift.observe(usual)
    assert drift.indices() is None
    drift.observe(usual)
    assert max(indices()) < 0.25
    for _ in range(10):
        drift.observe(other)
    assert min(indices()) > 1
    for _ in range(10):
        drift.observe(usual)
    assert max(indices()) < 0.25


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 300))
def test_the_reference_is_as_many_images_as_asked_for_from_few_shards(samples: list[int], images: int) -> None:
    places = places_of(samples, images)
    assert places == sorted(set(places))
    assert all(0 <= place < sum(samples) for place in places)
    assert len(places) <= images


def red_square(side: int) -> bytes:
    image = np.zeros((side, side, 3), np.uint8)
    image[8:40, 8:24] = (0, 0, 255)
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def drifts(response: httpx.Response) -> dict[str, float]:
    return {of: float(value) for of, value in re.findall(r'raypose_serve_drift\{.*of="(\w+)".*\} (\S+)', response.text)}


def reference_set(folder: Path) -> Path:
    """Twelve images with the square that the fake model finds."""
    person = People(
        np.array([[8, 8, 24, 40]], np.float32), np.array([[[8, 8, 2], [24, 40, 2]]], np.float32),
        np.zeros(1, np.int64), np.full(1, np.nan, np.float32), np.zeros(1, np.bool_), np.zeros(1, np.bool_),
    )  # fmt: skip
    samples = [Sample(f"{number}", red_square(64), 64, 64, person) for number in range(12)]
    build_shard_set(source_of(samples, SPEC.skeleton, SPEC.class_names), str(folder / "val"))
    return folder / "val"


def test_a_service_compares_requests_by_its_own_thresholds_with_the_set(tmp_path: Path) -> None:
    data = reference_set(tmp_path)

    async def go() -> list[dict[str, float]]:
        shelves = Shelves()
        shelves.add("a")
        config = config_for("a", f"drift={{data: {data}, images: 12, window: 12}}")
        seen = []
        async with serving(shelves, config) as (_, client):
            for side, query in ((64, ""), (640, "?conf=0.5"), (640, "")):
                for _ in range(12):
                    assert (await client.post(f"/v1/predict{query}", content=red_square(side))).status_code == 200
                seen.append(drifts(await client.get("/metrics")))
        return seen

    alike, with_another_threshold, larger = run(go())
    assert alike == {"scores": 0.0, "megapixels": 0.0}
    assert with_another_threshold == alike
    assert larger["megapixels"] > 0.25
    assert larger["scores"] == 0.0


def test_a_model_that_was_replaced_leaves_no_figure_behind_when_it_answers_what_it_had(tmp_path: Path) -> None:
    data = reference_set(tmp_path)

    async def go() -> tuple[dict[str, float], dict[str, float]]:
        shelves = Shelves()
        finder = shelves.add("a")
        shelves.add("b")
        config = config_for("a", f"drift={{data: {data}, images: 12, window: 1}}")
        async with serving(shelves, config) as (service, client):
            assert (await client.post("/v1/predict", content=red_square(64))).status_code == 200
            before = drifts(await client.get("/metrics"))
            finder.gate.clear()
            finder.batches.clear()
            late = asyncio.create_task(client.post("/v1/predict", content=red_square(64)))
            await waiting(lambda: finder.batches)
            assert await service.change(Wanted("b"))
            finder.gate.set()
            assert (await late).headers["X-Model-Version"] == "a-v"
            return before, drifts(await client.get("/metrics"))

    before, after = run(go())
    assert set(before) == {"scores", "megapixels"}
    assert after == {}
