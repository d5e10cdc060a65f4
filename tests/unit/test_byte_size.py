from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.config import dump_config, load_config
from raypose.config.byte_size import parse_size
from raypose.errors import ConfigError

DATA = ["data.train=train", "data.val=val"]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("50GiB", 50 * 2**30), ("50 GiB", 50 * 2**30), ("1.5MiB", 3 * 2**19), ("200GB", 200 * 10**9),
        ("3TiB", 3 * 2**40), ("64kb", 64_000), ("512B", 512),
    ],
)  # fmt: skip
def test_a_size_may_be_written_with_its_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes
    assert load_config(None, [*DATA, f"data.cache_bytes={text}"]).data.cache_bytes == size_bytes


@given(st.integers(1, 2**60))
def test_a_number_is_bytes_and_comes_back_from_a_dump(size_bytes: int) -> None:
    config = load_config(None, [*DATA, f"data.cache_bytes={size_bytes}"])
    assert config.data.cache_bytes == size_bytes
    assert f"cache_bytes: {size_bytes}\n" in dump_config(config)


@pytest.mark.parametrize("text", ["much", "GiB", "50 gibs", "-1GiB", "1e3MB", "50G", "1iB", "0", "true", "0B", "1.5"])
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*DATA, f"data.cache_bytes={text}"])
    (problem,) = caught.value.problems
    assert "data.cache_bytes: must be " in problem


def test_a_cache_folder_below_home_stays_that_of_each_node() -> None:
    located = load_config(None, [*DATA, "data.cache_dir=~/shards"]).located(Path("/work"))
    assert located.data.cache_dir == "~/shards"
    assert load_config(None, [*DATA, "data.cache_dir=shards"]).located(Path("/work")).data.cache_dir == "/work/shards"
    assert load_config(None, DATA).located(Path("/work")).data.cache_dir is None
