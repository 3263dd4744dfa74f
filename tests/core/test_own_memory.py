"""Memory in pages of its own."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from shotstream_rt.device.own_memory import bytes_together, copies_in, own_memory

CPU = torch.device("cpu")
STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    return int(STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_it_can_be_written_in_any_mode(dtype: torch.dtype) -> None:
    plain = own_memory((2, 3), dtype=dtype, device=CPU)
    with torch.inference_mode():
        made = own_memory((2, 3), dtype=dtype, device=CPU)
        for memory in (plain, made):
            assert memory.dtype == dtype and memory.shape == (2, 3)
            memory.zero_()[1].copy_(torch.ones(3))
            assert memory.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_default_device_does_not_move_it() -> None:
    with torch.device("meta"):
        assert own_memory((1,), dtype=torch.float32, device=CPU).device == CPU


def test_a_part_of_it_keeps_it() -> None:
    part = own_memory((2, 4096), dtype=torch.float32, device=CPU)[1]
    gc.collect()
    part.fill_(3)
    assert part.sum() == 3 * 4096


def test_copies_of_tensors_are_one_piece() -> None:
    square = torch.arange(12.0).view(3, 4)
    tensors = [
        square.T, square[1:2, 1:], torch.tensor(7, dtype=torch.uint8),
        torch.ones(3, 5).to(torch.float8_e4m3fn), torch.empty(0, 2),
    ]  # fmt: skip
    piece = own_memory((bytes_together(tensors),), dtype=torch.uint8, device=CPU)
    copies = copies_in(piece, tensors)
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1
    for copy, tensor in zip(copies, tensors, strict=True):
        assert copy.dtype == tensor.dtype and copy.is_contiguous()
        assert copy.float().tolist() == tensor.float().tolist()
    square.zero_()
    assert copies[0].sum() == 66


@pytest.mark.skipif(not STATM.is_file(), reason="resident memory as Linux tells it")
def test_it_is_resident_at_once_and_goes_back_when_it_is_freed() -> None:
    size, before = 64 << 20, resident_bytes()
    memory = own_memory((size,), dtype=torch.uint8, device=CPU)
    assert resident_bytes() - before > 0.9 * size
    del memory
    assert resident_bytes() - before < 0.1 * size


@pytest.mark.skipif(not STATM.is_file(), reason="Linux refuses more than its address space")
def test_more_than_there_is_is_a_shortage() -> None:
    with pytest.raises(MemoryError, match="cannot map"):
        own_memory((1 << 60,), dtype=torch.uint8, device=CPU)
