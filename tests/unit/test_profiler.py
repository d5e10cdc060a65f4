"""The trace that `train.profile` asks for."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from raypose.config import load_config
from raypose.config.schema import ProfileConfig
from raypose.engine.profiler import StepProfiler
from raypose.engine.world import World
from raypose.storage import open_store
from raypose.telemetry import Event, Notice


def record(folder: Path, wanted: ProfileConfig | None, steps: range) -> list[Event]:
    heard: list[Event] = []
    profiler = StepProfiler(wanted, World(), open_store(str(folder)), heard.append)
    for step in steps:
        with profiler.recording(step):
            torch.ones(4, 4) @ torch.ones(4, 4)
    profiler.close()
    return heard


def names_in(trace: Path) -> set[str]:
    return {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}


def test_the_trace_opens_as_json_and_holds_the_steps_and_their_operators(tmp_path: Path) -> None:
    heard = record(tmp_path, ProfileConfig(start=2, steps=2), range(6))
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "step-00000002-rank-0.json"
    names = names_in(trace)
    assert {"step 2", "step 3", "aten::matmul"} <= names
    assert not {"step 1", "step 4"} & names
    assert [event.text for event in heard if isinstance(event, Notice)] == [
        f"steps 2 and on were profiled: {tmp_path}/profile/step-00000002-rank-0.json"
    ]


def test_a_run_that_ends_or_begins_within_the_wanted_steps_leaves_a_trace_of_those_it_did(tmp_path: Path) -> None:
    record(tmp_path / "ends", ProfileConfig(start=2, steps=9), range(4))
    assert {"step 2", "step 3"} <= names_in(tmp_path / "ends/profile/step-00000002-rank-0.json")
    record(tmp_path / "resumed", ProfileConfig(start=2, steps=4), range(4, 8))
    assert {"step 4", "step 5"} <= names_in(tmp_path / "resumed/profile/step-00000004-rank-0.json")


def test_nothing_is_recorded_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert record(tmp_path, None, range(3)) == []
    assert not (tmp_path / "profile").exists()


def test_profiling_is_no_part_of_the_recipe() -> None:
    plain = load_config(None, ["data.train=a", "data.val=b"])
    profiled = load_config(None, ["data.train=a", "data.val=b", 'train.profile={"start": 3}'])
    assert plain.recipe_digest() == profiled.recipe_digest()
