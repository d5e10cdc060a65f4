"""People keep their numbers through a video, by where they are and move to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from raypose.errors import ConfigError
from raypose.model import Tracker, poses_above
from raypose.structures import Poses

FPS = 10.0


def people(*places: tuple[float, float], scores: Sequence[float] | None = None) -> Poses:
    """A person of 40 x 100 pixels around each x, with the score that goes with it."""
    count = len(places)
    box = np.array([[x - 20, y - 50, x + 20, y + 50] for x, y in places], np.float32).reshape(-1, 4)
    score = np.array(scores if scores is not None else [0.9] * count, np.float32)
    return Poses(box, score, np.zeros(count, np.int64), np.zeros((count, 2, 3), np.float32))


def numbers(tracker: Tracker, poses: Poses) -> list[int]:
    kept, id_N = tracker.update(poses)
    assert len(kept) == len(id_N)
    return id_N.tolist()  # type: ignore[no-any-return]


def test_two_people_who_pass_each_other_keep_their_numbers() -> None:
    tracker = Tracker(0.25, FPS)
    (left, right) = numbers(tracker, people((100, 150), (390, 230)))
    for step in range(1, 30):
        assert numbers(tracker, people((390 - 10 * step, 230), (100 + 10 * step, 150))) == [right, left]


def test_somebody_new_gets_a_number_in_the_second_frame() -> None:
    tracker = Tracker(0.25, FPS)
    assert numbers(tracker, people((100, 200))) == [1]
    assert numbers(tracker, people((100, 200), (400, 200))) == [1, 0]
    assert numbers(tracker, people((100, 200), (400, 200))) == [1, 2]


@pytest.mark.parametrize(("away", "number"), [(5, 1), (20, 0)])
def test_who_is_out_of_sight_for_less_than_a_second_comes_back_as_the_same(away: int, number: int) -> None:
    tracker = Tracker(0.25, FPS)
    for _ in range(3):
        numbers(tracker, people((100, 200)))
    for _ in range(away):
        assert numbers(tracker, people()) == []
    assert numbers(tracker, people((100, 200))) == [number]


def test_low_scores_count_where_they_carry_on_a_track_and_nowhere_else() -> None:
    tracker = Tracker(0.5, FPS)
    numbers(tracker, people((100, 200)))
    kept, id_N = tracker.update(people((102, 200), (400, 200), scores=[0.2, 0.2]))
    assert id_N.tolist() == [1]
    assert kept.box_xyxy_N4[0, 0] == 82
    assert poses_above(people((1, 1), (2, 2), scores=[0.4, 0.6]), 0.5).score_N.tolist() == pytest.approx([0.6])


def test_numbers_of_one_video_know_nothing_of_another() -> None:
    for _ in range(2):
        assert numbers(Tracker(0.25, FPS), people((100, 200), (300, 200))) == [1, 2]


def test_a_threshold_below_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"conf 0\.05.*0\.1"):
        Tracker(0.05, FPS)
