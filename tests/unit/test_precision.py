"""Which arithmetic a run computes in, the same on all of its workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

import pytest
import torch

from raypose.engine import precision as precisions
from raypose.engine.precision import Precision
from raypose.engine.setup import make_deterministic
from raypose.engine.world import Value, World


@dataclass(frozen=True, slots=True)
class _Beside(World):
    """A leader beside a worker of another kind."""

    other: str = "float32"

    def gather(self, value: Value) -> list[Value] | None:
        return [value, cast("Value", self.other)]

    def from_leader(self, value: Value) -> Value:
        return value


@pytest.mark.parametrize("other", ["float32", "bfloat16"])
def test_auto_is_what_every_worker_can_multiply(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "multiplies_bfloat16", lambda device_type: True)
    assert Precision.choose("auto", "cpu").name == "bfloat16"
    assert Precision.agreed("auto", _Beside(0, 2, other=other)).name == other


def test_float32_is_asked_of_all_workers_and_never_becomes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "multiplies_bfloat16", lambda device_type: True)
    assert Precision.agreed("float32", World()).name == "float32"


@pytest.mark.parametrize(("given", "found"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_deterministic_products_are_asked_of_cublas_unless_somebody_chose(
    given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch warns otherwise, and a run that resumes may part from one that does not."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if given is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    before = torch.get_deterministic_debug_mode()
    try:
        make_deterministic(0, enabled=True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == found
    finally:
        torch.set_deterministic_debug_mode(before)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
