from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from shotstream_rt._native import philox_normal
from shotstream_rt.kernels.reference.noise import noise_address

if TYPE_CHECKING:
    from .conftest import Twin


@pytest.mark.parametrize("count", [1, 3, 1024, 5003])
@pytest.mark.parametrize(
    "seed,shot,chunk,step",
    [(0, 0, 0, 0), (7, 1, 6, 1), (0xFEDCBA9876543210, 3, 5, 3), (2**64 - 1, 2**31, 2**31, 65535)],
    ids=["zero", "one", "wide", "largest"],
)
def test_every_element_is_the_host_s(
    twin: Twin, seed: int, shot: int, chunk: int, step: int, count: int
) -> None:
    expected = np.empty(count, dtype=np.float32)
    philox_normal(expected, seed, shot, chunk, step)
    address = noise_address(seed, shot, chunk, twin.device)
    got = twin.load("noise").addressed_normal(address, step, count)
    assert torch.equal(got.cpu(), torch.from_numpy(expected))
