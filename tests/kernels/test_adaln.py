from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.sets.kernel_set import KernelSet

if TYPE_CHECKING:
    from .conftest import Twin

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


def naive_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Rows of factors and offsets serve a frame's tokens each."""
    x = x.double().unflatten(1, (factor.shape[1], -1))
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    normed = (x - mean) / (variance + eps).sqrt()
    return (normed * factor.double().unsqueeze(2) + offset.double().unsqueeze(2)).flatten(1, 2)


@pytest.mark.parametrize("tokens,dim", [(1, 8), (7, 33), (130, 96)])
def test_one_row_serves_all_tokens(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check, tokens: int, dim: int
) -> None:
    x = normal(1, tokens, dim, dtype=dtype) * 3 + 1
    factor, offset = normal(1, 1, dim, dtype=dtype), normal(1, 1, dim, dtype=dtype)
    got = kernels.layer_norm(x, factor, offset, 1e-6)
    assert_close("adaln", got, naive_norm(x, factor, offset, 1e-6))
    assert torch.equal(kernels.head_norm(x, factor, offset, 1e-6), got)


def test_every_frame_has_its_own_row(
    twin: Twin, dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    x = normal(2, 3 * 5, 16, dtype=dtype)
    # Views into one tensor, as a table of modulations hands them out.
    factor, offset = normal(2, 3, 2, 16, dtype=dtype).unbind(2)
    given = [t.to(twin.device) for t in (x, factor, offset)]
    got = twin.load("adaln").layer_norm(*given, 1e-6)
    assert_close("adaln", got, naive_norm(x, factor, offset, 1e-6))


def test_a_pass_may_have_a_row_for_each_frame(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    x, y = normal(1, 3 * 5, 16, dtype=dtype), normal(1, 3 * 5, 16, dtype=dtype)
    factor, offset, gate = (normal(1, 3, 16, dtype=dtype) for _ in range(3))
    assert_close("adaln", kernels.layer_norm(x, factor, offset, 1e-6),
                 naive_norm(x, factor, offset, 1e-6))  # fmt: skip
    gated = (y.double().unflatten(1, (3, 5)) * gate.double().unsqueeze(2)).flatten(1, 2)
    assert_close("adaln", kernels.gated_residual(x, y, gate), x.double() + gated)
    total, normed = kernels.gated_residual_norm(x, y, gate, factor[:, :1], offset[:, :1], 1e-6)
    assert_close("adaln", total, x.double() + gated)
    assert_close("adaln", normed, naive_norm(total, factor[:, :1], offset[:, :1], 1e-6))


def test_a_constant_token_is_only_shifted(kernels: KernelSet) -> None:
    x = torch.full((1, 2, 8), 3.0)
    offset = torch.arange(8.0).view(1, 1, 8)
    got = kernels.layer_norm(x, torch.ones_like(offset), offset, 1e-6)
    assert torch.equal(got, offset.expand_as(got))


def test_gate_scales_the_branch(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    x, y = normal(1, 9, 33, dtype=dtype), normal(1, 9, 33, dtype=dtype)
    gate = normal(1, 1, 33, dtype=dtype)
    before = x.clone()
    wanted = x.double() + y.double() * gate.double()
    assert_close("adaln", kernels.gated_residual(x, y, gate), wanted)
    assert torch.equal(x, before)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_a_residual_is_normalised_for_what_follows(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check, gated: bool
) -> None:
    x, y = normal(1, 7, 33, dtype=dtype), normal(1, 7, 33, dtype=dtype)
    gate, factor, offset = (normal(1, 1, 33, dtype=dtype) for _ in range(3))
    total, h = kernels.gated_residual_norm(x, y, gate if gated else None, factor, offset, 1e-6)
    assert_close("adaln", total, x.double() + y.double() * (gate.double() if gated else 1))
    assert_close("adaln", h, naive_norm(total, factor, offset, 1e-6))


@pytest.mark.parametrize("rows", ["all", "shared", "ungated"])
def test_residual_rows_of_every_frame(
    twin: Twin, dtype: torch.dtype, normal: Draw, assert_close: Check, rows: str
) -> None:
    x, y = normal(2, 3 * 5, 33, dtype=dtype), normal(2, 3 * 5, 33, dtype=dtype)
    batch, frames = (2, 3) if rows == "all" else (1, 1)
    gate, factor, offset = normal(batch, frames, 3, 33, dtype=dtype).unbind(2)
    given = [t.to(twin.device) for t in (x, y, gate, factor, offset)]
    if rows == "ungated":
        gate, given[2] = torch.ones_like(gate), None
    total, normed = twin.load("adaln").gated_residual_norm(*given, 1e-6)
    branch = y.double().unflatten(1, (frames, -1)) * gate.double().unsqueeze(2)
    assert_close("adaln", total, x.double() + branch.flatten(1, 2))
    assert_close("adaln", normed, naive_norm(total.cpu(), factor, offset, 1e-6))
