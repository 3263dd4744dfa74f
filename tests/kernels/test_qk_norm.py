from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.sets.kernel_set import KernelSet

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


@pytest.mark.parametrize("tokens,dim", [(1, 4), (7, 33), (130, 256)])
def test_matches_the_formula(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check, tokens: int, dim: int
) -> None:
    x, weight = normal(1, tokens, dim, dtype=dtype) * 5, normal(dim, dtype=dtype)
    wide = x.double()
    root = (wide.square().sum(-1, keepdim=True) / dim + 1e-6).sqrt()
    assert_close("qk_norm", kernels.rms_norm(x, weight, 1e-6), wide / root * weight.double())


def test_a_slice_of_a_wider_row_is_normalised_alone(
    kernels: KernelSet, normal: Draw, assert_close: Check
) -> None:
    fused = normal(1, 6, 3 * 16)
    part, weight = fused.chunk(3, -1)[1], normal(16)
    got = kernels.rms_norm(part, weight, 1e-6)
    assert_close("qk_norm", got, kernels.rms_norm(part.contiguous(), weight, 1e-6).double())


def test_zeros_stay_zero(kernels: KernelSet) -> None:
    assert not kernels.rms_norm(torch.zeros(1, 3, 8), torch.ones(8), 1e-6).any()
