"""The copy of a run's tensors that a checkpoint is written from, while training goes on to change them."""

from __future__ import annotations

import pytest
import torch

from raypose.engine.restore import HostMemory


def test_a_copy_keeps_what_there_was_when_training_goes_on() -> None:
    weight = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"weight": weight, "step": torch.tensor(7)}
    copied = HostMemory().copy_of(tensors)
    expected = weight.clone()
    weight.add_(1)
    tensors["step"].add_(1)
    assert torch.equal(copied["weight"], expected)
    assert copied["weight"].stride() == weight.stride()
    assert copied["step"].item() == 7


def test_the_next_copy_takes_no_other_memory() -> None:
    memory, weight = HostMemory(), torch.nn.Parameter(torch.zeros(8))
    first = memory.copy_of({"weight": weight})["weight"]
    with torch.no_grad():
        weight.add_(1)
    second = memory.copy_of({"weight": weight})["weight"]
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second, torch.ones(8))
    assert not second.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_from_a_gpu_are_queued_together_and_all_there_at_the_end() -> None:
    """Any copy that waits by itself is an error in this mode; what waits for an event is not."""
    memory = HostMemory()
    tensors = {f"{index}": torch.zeros(64, 32, 3, 3, device="cuda") for index in range(100)}
    tensors = {name: tensor.to(memory_format=torch.channels_last) for name, tensor in tensors.items()}
    tensors["step"] = torch.zeros((), dtype=torch.int64, device="cuda")
    memory.copy_of(tensors)  # claims its memory
    busy = torch.rand(4096, 4096, device="cuda")
    busy = busy @ busy  # what PyTorch sets up for its first product may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            busy = busy @ busy
        for number, tensor in enumerate(tensors.values()):
            tensor.fill_(number)  # after the products, which take long
        copied = memory.copy_of(tensors)
        for tensor in tensors.values():
            tensor.fill_(-1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for number, tensor in enumerate(copied.values()):
        assert tensor.is_pinned()
        assert torch.equal(tensor, torch.full_like(tensor, number))
