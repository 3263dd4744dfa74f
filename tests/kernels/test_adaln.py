from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.kernel_set import KernelSet
from shotstream_rt.kernels.reference import adaln

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


def naive_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    x, shift, scale = x.double(), shift.double(), scale.double()
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + eps).sqrt() * (1 + scale) + shift


@pytest.mark.parametrize("tokens,dim", [(1, 8), (7, 33), (130, 96)])
def test_one_row_serves_all_tokens(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check, tokens: int, dim: int
) -> None:
    x = normal(1, 1, tokens, dim, dtype=dtype) * 3 + 1
    shift, scale = normal(1, 1, 1, dim, dtype=dtype), normal(1, 1, 1, dim, dtype=dtype)
    got = kernels.modulated_layer_norm(x, shift, scale, 1e-6)
    assert_close("adaln", got, naive_norm(x, shift, scale, 1e-6))


def test_every_frame_has_its_own_row(dtype: torch.dtype, normal: Draw, assert_close: Check) -> None:
    x = normal(2, 3, 5, 16, dtype=dtype)
    shift, scale = normal(2, 3, 1, 16, dtype=dtype), normal(2, 3, 1, 16, dtype=dtype)
    got = adaln.modulated_layer_norm(x, shift, scale, 1e-6)
    assert_close("adaln", got, naive_norm(x, shift, scale, 1e-6))


def test_a_constant_token_is_only_shifted(kernels: KernelSet) -> None:
    x = torch.full((1, 1, 2, 8), 3.0)
    shift = torch.arange(8.0).view(1, 1, 1, 8)
    got = kernels.modulated_layer_norm(x, shift, torch.ones_like(shift), 1e-6)
    assert torch.equal(got, shift.expand_as(got))


def test_gate_scales_the_branch(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    x, y = normal(1, 1, 9, 33, dtype=dtype), normal(1, 1, 9, 33, dtype=dtype)
    gate = normal(1, 1, 1, 33, dtype=dtype)
    before = x.clone()
    wanted = x.double() + y.double() * gate.double()
    assert_close("adaln", kernels.gated_residual(x, y, gate), wanted)
    assert torch.equal(x, before)
