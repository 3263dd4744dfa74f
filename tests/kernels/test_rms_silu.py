from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .conftest import Twin

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]

SHAPES = [(1, 1, 1, 1), (3, 5, 7, 12), (2, 9, 4, 96)]
"""Frames, rows, columns, channels."""


def formula(x: Tensor, gamma: Tensor, *, silu: bool) -> Tensor:
    y: Tensor = x / x.square().sum(-1, keepdim=True).sqrt() * gamma.double() * x.shape[-1] ** 0.5
    return y * torch.sigmoid(y) if silu else y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "given", ["nothing", "bias", "residual", "everything"], ids=lambda given: f"with-{given}"
)
def test_sum_norm_and_past_in_one(
    twin: Twin,
    dtype: torch.dtype,
    normal: Draw,
    assert_close: Check,
    shape: tuple[int, ...],
    given: str,
) -> None:
    frames, width = shape[0], shape[-1]
    h, gamma = normal(*shape, dtype=dtype), normal(width, dtype=dtype)
    bias = normal(width, dtype=dtype) if given in ("bias", "everything") else None
    residual = normal(*shape, dtype=dtype) if given in ("residual", "everything") else None
    past = normal(2, *shape[1:], dtype=dtype) if given == "everything" else None
    out = torch.full((frames + (2 if past is not None else 0), *shape[1:]), torch.nan, dtype=dtype)
    keep = given != "bias"

    def put(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(twin.device, copy=True)

    sent = [put(x) for x in (h, gamma, bias, residual, past, out)]
    twin.load("rms_silu").rms_silu(*sent, keep, given != "nothing")
    total = h.double() + (0 if bias is None else bias.double())
    total = total + (0 if residual is None else residual.double())
    assert sent[0] is not None
    if keep:
        assert_close("rms_silu", sent[0], total)
        total = sent[0].cpu().double()  # the norm sees what was stored
    else:
        assert torch.equal(sent[0].cpu(), h)
    got = sent[5]
    assert got is not None
    assert_close("rms_silu", got[-frames:], formula(total, gamma, silu=given != "nothing"))
    if past is not None:
        assert torch.equal(got[:2].cpu(), past)
        assert sent[4] is not None
        assert torch.equal(sent[4], got[-2:])


def test_past_rolls_on_over_groups_of_any_length(twin: Twin, normal: Draw) -> None:
    frames, gamma = normal(7, 2, 3, 5).to(twin.device), normal(5).to(twin.device)
    kernel = twin.load("rms_silu").rms_silu
    whole = torch.empty_like(frames)
    kernel(frames.clone(), gamma, None, None, None, whole, False, True)
    past = torch.zeros(2, 2, 3, 5, device=twin.device)
    behind = torch.cat((past, whole))
    done = 0
    for size in (1, 1, 3, 2):
        out = torch.full((size + 2, 2, 3, 5), torch.nan, device=twin.device)
        group = frames[done : done + size].clone()
        kernel(group, gamma, None, None, past, out, False, True)
        torch.testing.assert_close(out, behind[done : done + size + 2], rtol=1e-6, atol=1e-6)
        done += size


def test_zeros_stay_zero(twin: Twin) -> None:
    h, gamma = torch.zeros(2, 3, 1, 8, device=twin.device), torch.ones(8, device=twin.device)
    out = torch.full_like(h, torch.nan)
    twin.load("rms_silu").rms_silu(h, gamma, None, None, None, out, False, True)
    assert not out.any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_bias_and_residual(
    twin: Twin,
    dtype: torch.dtype,
    normal: Draw,
    assert_close: Check,
    shape: tuple[int, ...],
    relu: bool,
) -> None:
    h, bias, residual = (normal(*s, dtype=dtype) + 1 for s in (shape, shape[-1:], shape))
    sent = [x.to(twin.device, copy=True) for x in (h, bias, residual)]
    wanted = h.double() + bias.double() + residual.double()
    wanted = wanted.relu() if relu else wanted
    out = torch.full_like(sent[0], torch.nan)
    add = twin.load("rms_silu").add_bias
    add(*sent, out, relu)
    assert_close("rms_silu", out, wanted)
    add(sent[0], None, None, out, relu)
    assert torch.equal(out.cpu(), h.relu() if relu else h)
    add(*sent, sent[0], relu)
    assert_close("rms_silu", sent[0], wanted)


def test_frames_apart_in_memory_are_refused(triton_device: torch.device, normal: Draw) -> None:
    from shotstream_rt.kernels.gpu.rms_silu import add_bias  # needs triton

    h = normal(2, 4, 3, 3).to(triton_device).transpose(1, 3)
    with pytest.raises(ValueError, match="wanted dense"):
        add_bias(h, None, None, h, False)
