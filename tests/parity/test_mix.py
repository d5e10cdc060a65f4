"""CutMix against Ultralytics' own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ultralytics.data.augment import CutMix
from ultralytics.utils.metrics import bbox_ioa

from raypose.vision.mix import Area, cut_area, share_inside

SIDE = 128
boxes = arrays.arrays(np.float32, (5, 2), elements=st.floats(0, 90, width=32))


@given(boxes, st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_shares_are_those_of_ultralytics(low: np.ndarray, left: int, top: int, side: int) -> None:
    box_N4 = np.concatenate([low, low + 20], axis=1)
    area = Area(left, top, left + side, top + side)
    assert np.allclose(share_inside(box_N4, area), bbox_ioa(np.array([area], np.float32), box_N4)[0], atol=1e-5)


def test_areas_have_the_sizes_and_places_of_ultralytics() -> None:
    nobody, everywhere = np.zeros((0, 4)), np.array([[0.0, 0.0, SIDE, SIDE]])
    rng = np.random.default_rng(0)
    ours = [area for _ in range(4000) if (area := cut_area(nobody, everywhere, SIDE, rng)) is not None]
    np.random.seed(0)
    peer = SimpleNamespace(beta=1.0)
    theirs = [CutMix._rand_bbox(peer, SIDE, SIDE) for _ in range(4000)]
    kept = [area for area in theirs if share_inside(everywhere, Area(*map(int, area)))[0] >= 0.1]
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.allclose(np.quantile(ours, quantile, axis=0), np.quantile(kept, quantile, axis=0), atol=6)
