"""Models come and go while requests are answered; one that cannot serve never takes the place of one that does."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypose.config.serve_schema import CanaryConfig, ComputeConfig
from raypose.errors import CheckpointError, StorageUnavailableError
from raypose.serve.loading import Located, Model, locate
from raypose.serve.models import Library, Shelf, Wanted
from raypose.structures import Skeleton
from tests.serve_fakes import SPEC, Shelves, config_for, run, serving
from tests.unit.test_serve_http import red_square


def library(shelves: Shelves) -> Library:
    return Library(ComputeConfig(), opener=shelves.open, locate=shelves.locate)


def shelves_of(*places: str) -> Shelves:
    shelves = Shelves()
    for place in places:
        shelves.add(place)
    return shelves


def answering(found: Library) -> list[str]:
    assert found.shelf is not None
    return [model.version for _, model in found.shelf.all()]


def test_a_service_cannot_begin_with_a_model_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="no such run"):
        library(Shelves()).change(Wanted("missing"))


@pytest.mark.parametrize("problem", ["missing", "corrupt", "other keypoints", "other classes"])
def test_a_model_that_cannot_serve_changes_nothing_and_is_told_with_its_reason(problem: str) -> None:
    shelves = shelves_of("good")
    shelves.places["corrupt"] = CheckpointError("corrupt: sha256 differs")
    shelves.add("other keypoints", spec=replace(SPEC, skeleton=Skeleton(("head", "foot", "tail"))))
    shelves.add("other classes", spec=replace(SPEC, class_names=("fish",)))
    books = library(shelves)
    books.change(Wanted("good"))
    assert not books.change(Wanted(problem))
    assert answering(books) == ["good-v"]
    (refused,) = books.to_dict()["refused"]
    assert refused["model"] == problem
    assert {"missing": "no such", "corrupt": "sha256", "other keypoints": "3 keypoints instead of 2",
            "other classes": "fish instead of person"}[problem] in refused["reason"]  # fmt: skip


def test_a_canary_that_cannot_serve_leaves_both_as_they_were() -> None:
    shelves = shelves_of("a", "b")
    shelves.places["bad"] = CheckpointError("bad")
    books = library(shelves)
    books.change(Wanted("a"))
    for canary in ("bad", "missing"):
        assert not books.change(Wanted("b", canary=CanaryConfig(model=canary)))
    assert answering(books) == ["a-v"]
    assert not books.follow()
    assert [refused["model"] for refused in books.to_dict()["refused"]] == ["bad", "missing"]


def refused(books: Library) -> list[str]:
    return [refusal["model"] for refusal in books.to_dict()["refused"]]


@pytest.mark.parametrize("problem", ["gone", "damaged", "does not fit"])
def test_a_service_begins_without_its_canary_where_that_cannot_be_loaded_and_takes_it_later(problem: str) -> None:
    shelves = shelves_of("a")
    if problem != "gone":
        memory = problem == "does not fit"
        shelves.places["b"] = torch.OutOfMemoryError("CUDA out of memory") if memory else CheckpointError("b: damaged")
    books = library(shelves)
    assert books.change(Wanted("a", canary=CanaryConfig(model="b", share=0.5)))
    told = books.to_dict()
    assert [(model["role"], model["share"]) for model in told["models"]] == [("stable", 1.0)]
    assert refused(books) == ["b"]
    assert books.lacks_canary
    tried = list(shelves.opened)
    assert [books.follow(), books.follow()] == [False] * 2
    assert shelves.opened == tried  # what is unfit is tried once
    shelves.add("a", fingerprint="2")  # which nobody follows
    shelves.add("b", fingerprint="2")
    assert books.follow()
    assert answering(books) == ["a-v", "b-v2"]
    assert refused(books) == []
    assert [model["share"] for model in books.to_dict()["models"]] == [0.5, 0.5]
    assert not books.lacks_canary


def test_neither_of_two_models_that_are_unfit_is_tried_twice() -> None:
    shelves = shelves_of("a")
    shelves.places["b"] = CheckpointError("b: damaged")
    books = library(shelves)
    books.change(Wanted("a", follow_s=1.0, canary=CanaryConfig(model="b")))
    shelves.places["a"], shelves.fingerprints["a"] = CheckpointError("a: damaged"), "2"
    assert [books.follow() for _ in range(3)] == [False] * 3
    assert shelves.opened == ["a", "b", "a"]
    assert sorted(refused(books)) == ["a", "b"]


def test_a_model_that_fits_at_the_second_attempt_is_no_longer_told_as_one_that_does_not() -> None:
    shelves, books = about_to_meet(MemoryError("host"))
    assert not books.follow()
    shelves.add("step-2")
    assert books.change(Wanted("run", follow_s=1.0))
    assert not books.follow()
    assert refused(books) == []


def test_metrics_forget_versions_of_long_ago() -> None:
    async def go() -> str:
        shelves = shelves_of(*"abcdef")
        async with serving(shelves, config_for("a")) as (service, client):
            for place in "abcdef":
                await service.change(Wanted(place))
                assert (await client.post("/v1/predict", content=red_square())).status_code == 200
            return (await client.get("/metrics")).text

    text = run(go())
    for name in ("people", "scores"):
        assert set(re.findall(rf'serve_{name}_count{{.*version="(\S+)-v"}} 1', text)) == set("cdef")


def test_going_back_takes_the_model_that_is_still_in_memory() -> None:
    shelves = shelves_of("a", "b")
    books = library(shelves)
    for place in ("a", "b", "a", "b"):
        assert books.change(Wanted(place))
    assert shelves.opened == ["a", "b"]
    assert books.to_dict()["previous"] == ["a-v"]


def test_no_thread_of_a_change_stays_and_takes_cores_from_those_that_answer() -> None:
    shelves = Shelves()
    shelves.add("run")

    async def names_after_a_change() -> set[str]:
        async with serving(shelves, config_for("run")):
            deadline_s = time.monotonic() + 60
            while True:  # a thread ends a moment after its work
                names = {thread.name for thread in threading.enumerate()}
                if time.monotonic() > deadline_s or not any(name.startswith("raypose-models") for name in names):
                    return names
                await asyncio.sleep(0.01)

    names = run(names_after_a_change())
    assert any(name.startswith("raypose-lane") for name in names)
    assert not [name for name in names if name.startswith("raypose-models")]


def test_only_two_models_of_before_are_kept() -> None:
    shelves = shelves_of(*"abcde")
    books = library(shelves)
    for place in "abcde":
        books.change(Wanted(place))
    assert books.to_dict()["previous"] == ["d-v", "c-v"]


class MovingRun(Shelves):
    """A run whose best checkpoint is `best`."""

    best = "step-1"

    def locate(self, reference: str, which: str) -> Located:
        return super().locate(self.best, which)


def test_a_new_best_checkpoint_is_served_and_a_damaged_one_is_tried_once() -> None:
    shelves = MovingRun()
    shelves.add("step-1")
    shelves.add("step-3")
    shelves.places["step-2"] = CheckpointError("step-2: damaged")
    books = library(shelves)
    books.change(Wanted("run", follow_s=1.0))
    assert not books.follow()
    shelves.best = "step-2"
    assert [books.follow(), books.follow(), books.follow()] == [False] * 3
    assert answering(books) == ["step-1-v"]
    assert shelves.opened == ["step-1", "step-2"]
    shelves.best = "step-3"
    assert books.follow()
    assert answering(books) == ["step-3-v"]


ACCIDENTS = [
    torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
    OSError(28, "No space left on device"),
    StorageUnavailableError("s3://poses: cannot be reached"),
]
"""What happens while a model is loaded. Of memory that is short the model is to blame, of the others nobody here."""


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda accident: type(accident).__name__)
def test_an_accident_refuses_a_change_in_one_line_and_only_a_service_that_begins_fails_of_it(
    accident: Exception,
) -> None:
    shelves = shelves_of("good")
    shelves.places["next"] = accident
    with pytest.raises(type(accident)):
        library(shelves).change(Wanted("next"))
    books = library(shelves)
    books.change(Wanted("good"))
    assert not books.change(Wanted("next"))
    assert answering(books) == ["good-v"]
    (refused,) = books.to_dict()["refused"]
    assert refused["model"] == "next"
    told = {"OutOfMemoryError": "OutOfMemoryError: CUDA out of memory.",
            "OSError": "OSError: [Errno 28] No space left on device"}  # fmt: skip
    assert refused["reason"] == told.get(type(accident).__name__, str(accident))


def about_to_meet(failure: Exception) -> tuple[MovingRun, Library]:
    """A run that is followed, whose next checkpoint cannot be opened."""
    shelves = MovingRun()
    shelves.add("step-1")
    shelves.places["step-2"] = failure
    books = library(shelves)
    books.change(Wanted("run", follow_s=1.0))
    shelves.best = "step-2"
    return shelves, books


@pytest.mark.parametrize("accident", ACCIDENTS[1:], ids=lambda accident: type(accident).__name__)
def test_a_checkpoint_that_met_an_accident_is_served_once_that_has_passed(accident: Exception) -> None:
    shelves, books = about_to_meet(accident)
    assert not books.follow()
    assert [refused["model"] for refused in books.to_dict()["refused"]] == ["run"]
    shelves.add("step-2")
    assert books.follow()
    assert answering(books) == ["step-2-v"]
    assert books.to_dict()["refused"] == []


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
        MemoryError("host"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_checkpoint_that_does_not_fit_into_memory_is_loaded_once_and_a_newer_one_again(failure: Exception) -> None:
    shelves, books = about_to_meet(failure)
    assert [books.follow() for _ in range(3)] == [False] * 3
    assert shelves.opened == ["step-1", "step-2"]
    assert books.refusals["run"] == f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    shelves.add("step-3")
    shelves.best = "step-3"
    assert books.follow()
    assert "run" not in books.refusals


def test_models_of_before_make_room_for_one_that_does_not_fit_beside_them() -> None:
    class SmallMemory(Shelves):
        def open(self, located: Located, config: ComputeConfig) -> Model:
            model = super().open(located, config)
            if books.to_dict()["previous"]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return model

    shelves = SmallMemory()
    for place in "abcd":
        shelves.add(place)
    books = library(shelves)
    assert all(books.change(Wanted(place)) for place in "abcd")
    assert answering(books) == ["d-v"]
    assert books.to_dict()["previous"] == ["c-v"]


def test_what_is_told_of_models_may_be_read_while_they_change() -> None:
    """Threads take turns as often as they can be made to; a dictionary that changes may not be walked through."""
    shelves = shelves_of("a")
    books = library(shelves)
    books.change(Wanted("a"))
    end = threading.Event()

    def refuse_many() -> None:
        for number in range(10**9):
            if end.is_set():
                return
            books.refuse(f"place {number}", CheckpointError("damaged"))

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    changing = threading.Thread(target=refuse_many)
    changing.start()
    try:
        for _ in range(3000):
            books.to_dict()
    finally:
        end.set()
        changing.join()
        sys.setswitchinterval(before_s)


def test_an_outage_that_has_passed_is_told_no_more_though_nothing_newer_is_there() -> None:
    shelves = MovingRun()
    shelves.add("step-1")
    books = library(shelves)
    books.change(Wanted("run", follow_s=1.0))
    shelves.best = "lost"  # and cannot be located
    assert not books.follow()
    assert books.refusals
    shelves.best = "step-1"
    assert not books.follow()
    assert not books.refusals


def test_a_model_that_is_overwritten_in_place_is_served() -> None:
    shelves = shelves_of("best.pt")
    books = library(shelves)
    books.change(Wanted("best.pt", follow_s=1.0))
    assert not books.follow()
    shelves.add("best.pt", fingerprint="2")
    assert books.follow()
    assert answering(books) == ["best.pt-v2"]
    shelves.places["best.pt"], shelves.fingerprints["best.pt"] = CheckpointError("best.pt: cut off"), "3"
    assert [books.follow(), books.follow()] == [False] * 2
    assert shelves.opened == ["best.pt"] * 3
    shelves.add("best.pt", fingerprint="4")
    assert books.follow()
    assert books.to_dict()["refused"] == []
    shelves.add("best.pt", fingerprint="5")
    assert books.change(Wanted("best.pt"))
    assert answering(books) == ["best.pt-v5"]


@pytest.mark.parametrize("file", ["model.pt", "run/weights/best.pt", "run/checkpoints/step-00000004/state.json"])
def test_what_lies_at_a_place_is_told_from_what_lay_there_before(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"first")
    checkpoint = path.name == "state.json"
    reference = str(path.parent if checkpoint else tmp_path / file.partition("/")[0])
    first = locate(reference, "best")
    assert locate(reference, "best") == first
    assert first.place == str(path.parent if checkpoint else path)
    path.with_name("other.pt").write_bytes(b"beside it")
    assert locate(reference, "best") == first
    path.write_bytes(b"second")
    assert locate(reference, "best") != first


def test_an_export_in_a_folder_is_another_one_once_a_file_of_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_bytes(b"graph")
    (tmp_path / "model.bin").write_bytes(b"weights")
    first = locate(str(tmp_path), "best")
    (tmp_path / "model.bin").write_bytes(b"other weights")
    assert locate(str(tmp_path), "best") != first


@given(st.floats(0, 1), st.integers(1, 400))
def test_a_canary_answers_its_share_of_any_row_of_requests(share: float, requests: int) -> None:
    models = shelves_of("a", "b").places
    shelf = Shelf(models["a"], models["b"], share)  # type: ignore[arg-type]
    roles = Counter(shelf.pick(number)[0] for number in range(requests))
    assert roles["canary"] == int(requests * share)


def test_under_load_every_answer_is_of_the_version_that_it_names_and_none_fails() -> None:
    """Two hundred changes; the score says which model has answered."""

    async def client_of(client: httpx.AsyncClient, answers: list[tuple[str, float]], end: asyncio.Event) -> None:
        while not end.is_set():
            response = await client.post("/v1/predict", content=red_square())
            assert response.status_code == 200, response.text
            raw = response.json()
            answers.append((raw["model"]["version"], raw["images"][0]["people"][0]["score"]))

    async def go() -> tuple[list[tuple[str, float]], int]:
        shelves = Shelves()
        shelves.add("a", score=0.5)
        shelves.add("b", score=0.75)
        answers: list[tuple[str, float]] = []
        end = asyncio.Event()
        async with serving(shelves, config_for("a")) as (service, client):
            tasks = [asyncio.create_task(client_of(client, answers, end)) for _ in range(4)]
            changed = 0
            for number in range(200):
                before = len(answers)
                changed += await service.change(Wanted("ab"[(number + 1) % 2]))
                while len(answers) == before:
                    await asyncio.sleep(0)
            end.set()
            await asyncio.gather(*tasks)
        return answers, changed

    answers, changed = run(go())
    assert changed == 200
    assert set(answers) == {("a-v", 0.5), ("b-v", 0.75)}


def test_a_request_may_name_the_role_or_version_that_is_to_answer() -> None:
    async def go() -> list[Any]:
        shelves = Shelves()
        shelves.add("a")
        shelves.add("b")
        config = config_for("a", "canary={model: b, share: 0.0}")
        async with serving(shelves, config) as (_, client):
            asked = [
                await client.post(f"/v1/predict?model={name}", content=red_square())
                for name in ("stable", "canary", "a-v", "b-v", "c-v")
            ]
            return [response.headers.get("X-Model-Version", response.status_code) for response in asked]

    assert run(go()) == ["a-v", "b-v", "a-v", "b-v", 404]
