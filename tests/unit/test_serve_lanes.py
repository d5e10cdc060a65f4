"""Who calls the model with which images: cores share what there is, or one call has them all."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raypose.inference import Selection
from raypose.serve.lanes import Job, WaitingRoom
from raypose.serve.loading import Located, Model
from raypose.structures import ImageArray
from tests.serve_fakes import RedSquareFinder, Shelves

MOST = 8


def model_of(place: str = "a") -> Any:
    shelves = Shelves()
    shelves.add(place)
    return shelves.places[place]


def jobs(count: int, model: Any | None = None, width: int = 64) -> list[Job]:
    """Images of one kind: of one model and one shape."""
    model = model or model_of()
    fitted = model.fit(np.zeros((64, width, 3), np.uint8), "image")
    loop = asyncio.new_event_loop()
    made = [Job(model, fitted, Selection(0.25, 0.7, 10), loop.create_future()) for _ in range(count)]
    loop.close()
    return made


def room_of(lanes: int, waiting: list[Job], *, shares_cores: bool = True) -> WaitingRoom:
    room = WaitingRoom(lanes, shares_cores=shares_cores)
    for job in waiting:
        room.put(job)
    return room


@contextmanager
def asking(room: WaitingRoom, lane: int) -> Iterator[list[Any]]:
    """A lane that asks for a turn in a thread of its own; what it got, once it got something."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(room.take(lane, MOST)))
    thread.start()
    try:
        yield got
    finally:
        room.close()
        thread.join(5)
        assert not thread.is_alive()


def test_a_lone_image_has_all_cores() -> None:
    waiting = jobs(1)
    room = room_of(4, waiting)
    with asking(room, 2) as got:
        turn = room.take(0, MOST)
        assert turn is not None and turn.alone and turn.jobs == waiting
        assert got == []


def test_images_that_fill_all_cores_are_shared_out() -> None:
    room = room_of(2, jobs(2))
    turns = [room.take(lane, MOST) for lane in (0, 1)]
    assert [(len(turn.jobs), turn.alone) for turn in turns if turn] == [(1, False), (1, False)]


@pytest.mark.parametrize(("lanes", "waiting", "expected"), [(2, 3, [2, 1]), (2, 30, [4, 4]), (3, 7, [3, 2, 2])])
def test_no_lane_takes_what_another_could_begin_with(lanes: int, waiting: int, expected: list[int]) -> None:
    """Four go through this model at once."""
    room = room_of(lanes, jobs(waiting))
    turns = [room.take(lane, MOST) for lane in range(lanes)]
    assert [len(turn.jobs) for turn in turns if turn and not turn.alone] == expected


def test_the_second_image_of_two_cores_does_not_wait_for_the_first() -> None:
    room = room_of(2, jobs(1))
    first = room.take(0, MOST)
    room.put(jobs(1)[0])
    second = room.take(1, MOST)
    assert first and second
    assert (first.alone, second.alone) == (True, False)


def test_few_images_of_many_cores_wait_for_the_call_that_has_them_all() -> None:
    room = room_of(8, jobs(1))
    assert room.take(0, MOST).alone  # type: ignore[union-attr]
    later = jobs(2)
    for job in later:
        room.put(job)
    with asking(room, 5) as got:
        again = room.take(0, MOST)  # its first turn has ended
        assert again is not None and again.alone and again.jobs == later
        assert got == []


def test_an_image_is_not_kept_for_a_lane_that_is_busy_with_its_share() -> None:
    room = room_of(3, jobs(3))
    assert [room.take(lane, MOST).alone for lane in range(3)] == [False] * 3  # type: ignore[union-attr]
    room.put(jobs(1)[0])
    turn = room.take(2, MOST)
    assert turn is not None and not turn.alone


def test_a_gpu_takes_all_that_there_is() -> None:
    turn = room_of(2, jobs(3), shares_cores=False).take(1, MOST)
    assert turn is not None
    assert (len(turn.jobs), turn.alone) == (3, False)


def test_images_of_other_kinds_keep_their_order() -> None:
    model, other = model_of("a"), model_of("b")
    kinds = [*jobs(1, model), *jobs(1, other), *jobs(1, model), *jobs(1, other, width=128)]
    room = room_of(1, kinds, shares_cores=False)
    turns = [room.take(0, MOST) for _ in range(3)]
    assert [turn.jobs for turn in turns if turn] == [[kinds[0], kinds[2]], [kinds[1]], [kinds[3]]]


class Broken(RedSquareFinder):
    """Fails whatever it is given."""

    def __call__(self, canvas_BHW3: ImageArray) -> Tensor:
        raise RuntimeError("gone")


def test_a_back_end_for_lone_images_that_broke_is_at_fault_though_that_of_lanes_works() -> None:
    model = Model("v", Located("a", ""), Broken(0.9), 64, (), RedSquareFinder(0.9))
    (job,) = jobs(1, model)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="gone"):
            model.find(0, [job.fitted], [job.selection], alone=True)
    model.examine(0, alone=True)
    assert "on a grey image: RuntimeError" in model.fault


@given(lanes=st.integers(1, 5), shares=st.booleans(), counts=st.lists(st.integers(0, 9), max_size=5))
def test_every_image_is_taken_once_and_one_call_at_a_time_is_alone(lanes: int, shares: bool, counts: list[int]) -> None:
    room = WaitingRoom(lanes, shares_cores=shares)
    model = model_of()
    taken: Counter[int] = Counter()
    alone = threading.Lock()

    def work(lane: int) -> None:
        while (turn := room.take(lane, MOST)) is not None:
            if turn.alone:
                assert alone.acquire(blocking=False)
            taken.update(map(id, turn.jobs))
            if turn.alone:
                alone.release()

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    put = [job for count in counts for job in jobs(count, model)]
    for job in put:
        room.put(job)
    room.close()
    for thread in threads:
        thread.join(5)
    assert taken == Counter(map(id, put))
