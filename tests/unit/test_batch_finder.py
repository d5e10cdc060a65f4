"""How large a batch may be; measured on GPUs, decided here."""

from __future__ import annotations

import pytest
import torch

from raypose.config import load_config
from raypose.engine.batch_finder import find_batch, largest_that_fits
from raypose.errors import ConfigError


@pytest.mark.parametrize(("room", "expected"), [(100, (8, 82)), (82, (8, 82)), (81, (4, 42)), (11, None)])
def test_the_largest_power_of_two_within_the_room_is_taken(room: int, expected: tuple[int, int] | None) -> None:
    assert largest_that_fits(lambda images: 2 + 10 * images, room, most=1024) == expected


def test_memory_that_runs_out_ends_the_search_as_too_much_does() -> None:
    assert largest_that_fits(lambda images: images if images < 8 else None, 1000, most=1024) == (4, 4)


def test_no_more_images_are_tried_than_there_are() -> None:
    assert largest_that_fits(lambda images: images, 1000, most=5) == (4, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ConfigError, match=r"this machine has none; choose train\.batch"):
        find_batch(load_config(None, ["data.train=a", "data.val=b"]))
